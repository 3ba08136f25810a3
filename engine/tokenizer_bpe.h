/*
 * The merging half of byte-level BPE: a piece's bytes to ids by ranked merges. Immutable after
 * creation: any thread, each with a scratch of its own. The vocabulary must outlive it.
 */
#ifndef TERN_ENGINE_TOKENIZER_BPE_H
#define TERN_ENGINE_TOKENIZER_BPE_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/token_list.h"
#include "engine/tokenizer_vocab.h"

struct tokenizer_bpe_merge {
    int32_t left; /* -1: a free slot */
    int32_t right;
    int32_t result;
    uint32_t rank;
};

struct tokenizer_bpe {
    const struct tokenizer_vocab *vocab;
    int ignores_merges;
    struct tokenizer_bpe_merge *merges; /* hash table, a power of two of slots */
    size_t mask;
    uint64_t seed;
    int32_t byte_ids[256];
};

struct tokenizer_bpe_scratch {
    struct tokenizer_bpe_symbol *symbols;
    uint64_t *heap;
    size_t capacity; /* bytes of a piece that fit */
};

/*
 * Reads tokenizer.ggml.merges. ERR_FORMAT when a single byte is no token, or a merge names a text
 * that is no token; a merge that has a special token as a part or result is left out. *BPE is
 * zeroed memory; after a failure tokenizer_bpe_done is still due.
 */
MUST_USE enum err tokenizer_bpe_init(struct tokenizer_bpe *bpe, const struct tokenizer_vocab *vocab,
                                     const struct gguf *file, int ignores_merges);
void tokenizer_bpe_done(struct tokenizer_bpe *bpe);

/* Appends the ids of one PIECE (any bytes). Takes LEN log LEN steps. */
MUST_USE enum err tokenizer_bpe_encode(const struct tokenizer_bpe *bpe,
                                       struct tokenizer_bpe_scratch *scratch, const char *piece,
                                       size_t len, struct token_list *out);
void tokenizer_bpe_scratch_done(struct tokenizer_bpe_scratch *scratch); /* also fits CLEANUP */

#endif
