/*
 * Opens the model that a command line names: a GGUF file, or the demo model that lies in the
 * binary, which is what NULL and the word "demo" stand for ("./demo" is a file of that name).
 */
#ifndef TERN_TOOLS_MODEL_FILE_H
#define TERN_TOOLS_MODEL_FILE_H

#include "engine/gguf.h"

/* For the help of --model. */
#define MODEL_FILE_HELP "the model, a GGUF file; demo: the one in this binary (demo)"

/* True if NAME, which may be NULL, stands for the demo model. */
int model_file_is_demo(const char *name);

/* NAME, or what stands for the demo model in messages. */
const char *model_file_label(const char *name);

/* The caller closes *out. Errors name the file. */
MUST_USE enum err model_file_open(const char *name, struct gguf **out);

#endif
