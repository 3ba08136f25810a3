/*
 * The tokens of a vocabulary: what each is, the bytes it writes, and the way back from bytes to
 * ordinary tokens. Read from tokenizer.ggml.tokens and .token_type, which are untrusted.
 * Immutable after creation: any thread.
 */
#ifndef TERN_ENGINE_TOKENIZER_VOCAB_H
#define TERN_ENGINE_TOKENIZER_VOCAB_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/token_index.h"

enum tokenizer_vocab_kind {
    TOKENIZER_VOCAB_NORMAL,  /* bytes are what its mapped text stands for */
    TOKENIZER_VOCAB_PLAIN,   /* a normal token whose text is not mapped: never produced from text */
    TOKENIZER_VOCAB_CONTROL, /* control and unknown tokens: hidden unless asked for */
    TOKENIZER_VOCAB_USER,    /* user-defined: always cut out of the text, always written */
    TOKENIZER_VOCAB_UNUSED,  /* never matched, writes nothing */
};

struct tokenizer_vocab {
    int32_t count;
    uint8_t *kinds;  /* enum tokenizer_vocab_kind */
    size_t *offsets; /* count + 1, into bytes */
    char *bytes;
    struct token_index normal; /* by bytes */
    struct token_index other;  /* by text: the first of every text that no normal token has */
};

/* *VOCAB is zeroed memory; on failure it is as after tokenizer_vocab_done. */
MUST_USE enum err tokenizer_vocab_init(struct tokenizer_vocab *vocab, const struct gguf *file);
void tokenizer_vocab_done(struct tokenizer_vocab *vocab);

/* The bytes of token ID, which must be in range; unterminated. */
const char *tokenizer_vocab_bytes(const struct tokenizer_vocab *vocab, int32_t id, size_t *len);

#endif
