/*
 * The tokenizer of a model file, for subcommands that need nothing else of it. A file without
 * tensors will do.
 */
#ifndef TERN_TOOLS_VOCABULARY_H
#define TERN_TOOLS_VOCABULARY_H

#include "base/err.h"
#include "engine/tokenizer.h"

/* PATH as for model_file_open. The caller destroys *out. Errors name the file. */
MUST_USE enum err vocabulary_load(const char *path, struct tokenizer **out);

#endif
