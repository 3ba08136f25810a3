/* Token ids as text: numbers separated by white space, with an optional leading word "tokens:". */
#ifndef TERN_TOOLS_TOKEN_FILE_H
#define TERN_TOOLS_TOKEN_FILE_H

#include "engine/tokenizer.h"

/* Appends the ids of TEXT. ERR_FORMAT names the word that is no id. */
MUST_USE enum err token_file_parse(const char *text, size_t len, struct token_list *out);

/* Reads PATH ("-": standard input) and parses it. */
MUST_USE enum err token_file_read(const char *path, struct token_list *out);

/* Reads all of a file, "-" standing for standard input, up to a cap of 1 GiB. */
struct buf;
MUST_USE enum err token_file_slurp(const char *path, struct buf *out);

#endif
