/*
 * Finds special tokens in text: one scan, the leftmost match first, and the longest of those
 * that begin there, by exact bytes. Immutable after creation: any thread. The vocabulary must
 * outlive it.
 */
#ifndef TERN_ENGINE_TOKENIZER_SPECIAL_H
#define TERN_ENGINE_TOKENIZER_SPECIAL_H

#include "base/err.h"
#include "engine/tokenizer_vocab.h"

struct tokenizer_special {
    const struct tokenizer_vocab *vocab;
    int32_t *ids; /* in the order of their bytes */
    size_t count;
    size_t first[257]; /* those that begin with byte b are ids[first[b]] up to ids[first[b + 1]] */
};

struct tokenizer_special_match {
    size_t at;
    size_t len;
    int32_t id;
};

/* User-defined tokens, and with CONTROL also control and unknown ones. */
MUST_USE enum err tokenizer_special_init(struct tokenizer_special *special,
                                         const struct tokenizer_vocab *vocab, int control);
void tokenizer_special_done(struct tokenizer_special *special);

/* The first match at or behind FROM; 0 if there is none. */
int tokenizer_special_find(const struct tokenizer_special *special, const char *text, size_t len,
                           size_t from, struct tokenizer_special_match *out);

#endif
