/*
 * Splits text into pieces by the patterns of a pre-tokenizer. Immutable after creation: any
 * thread may split at once. The only file that knows PCRE2.
 */
#ifndef TERN_ENGINE_TOKENIZER_PATTERN_H
#define TERN_ENGINE_TOKENIZER_PATTERN_H

#include "base/err.h"

struct tokenizer_pattern;

/* STAGES ends with NULL; its strings are not kept. */
MUST_USE enum err tokenizer_pattern_create(const char *const *stages,
                                           struct tokenizer_pattern **out);
void tokenizer_pattern_destroy(struct tokenizer_pattern *pattern); /* NULL is fine */

/* Takes one piece (LEN > 0, inside the text); an error ends the splitting. */
struct tokenizer_pattern_sink {
    enum err (*take)(void *context, const char *piece, size_t len);
    void *context;
};

/*
 * Hands the pieces of TEXT, which must be valid UTF-8, to SINK in order; together they are TEXT.
 * Linear in LEN for the patterns that there are.
 */
MUST_USE enum err tokenizer_pattern_split(const struct tokenizer_pattern *pattern, const char *text,
                                          size_t len, const struct tokenizer_pattern_sink *sink);

#endif
