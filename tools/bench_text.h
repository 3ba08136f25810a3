/*
 * Messages for benchmarks: common words in an order that follows from a seed. Two messages of
 * different seeds share no beginning to speak of, so that nothing can be reused between them.
 */
#ifndef TERN_TOOLS_BENCH_TEXT_H
#define TERN_TOOLS_BENCH_TEXT_H

#include "engine/tokenizer.h"

enum { BENCH_TEXT_WORDS_MAX = 1 << 20 };

/* COUNT words, at least one; the caller frees *out. */
MUST_USE enum err bench_text_words(long long count, uint64_t seed, char **out);

/* As many words as come nearest to TOKENS tokens of this tokenizer; the caller frees *out. */
MUST_USE enum err bench_text_tokens(const struct tokenizer *tokenizer, long long tokens,
                                    uint64_t seed, char **out);

MUST_USE enum err bench_text_count(const struct tokenizer *tokenizer, const char *text,
                                   long long *tokens_out);

#endif
