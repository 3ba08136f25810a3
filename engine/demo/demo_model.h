/*
 * The demo model, a GGUF file of 5.4 MB that lies in the binary's read-only data: what `tern`
 * serves when no model is named. tools/demo_model/README.md says what it is.
 *
 * Any thread; valid for the life of the process. gguf_parse reads it in place.
 */
#ifndef TERN_ENGINE_DEMO_MODEL_H
#define TERN_ENGINE_DEMO_MODEL_H

#include <stddef.h>

/* The file's bytes, aligned to 64. */
const void *demo_model_data(size_t *bytes_out);

#endif
