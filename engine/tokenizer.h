/*
 * Text to token ids and back, from the tokenizer.ggml.* keys of a GGUF: byte-level
 * BPE (pre-tokenizers gpt-2, dbrx, llama-bpe, default and the names that share
 * them). Immutable after creation: any thread may use it at once.
 */
#ifndef TERN_ENGINE_TOKENIZER_H
#define TERN_ENGINE_TOKENIZER_H

#include "base/err.h"
#include "engine/gguf.h"
#include "engine/token_list.h"
#include "engine/utf8_stream.h"

struct tokenizer;
struct tokenizer_special_match; /* tokenizer_special.h */

/*
 * Copies all it needs: FILE may be closed afterwards. ERR_FORMAT for missing or contradictory keys,
 * ERR_UNSUPPORTED for a model or pre-tokenizer it does not know (never a silent fallback).
 */
MUST_USE enum err tokenizer_create(const struct gguf *file, struct tokenizer **out);
void tokenizer_destroy(struct tokenizer *tokenizer);

enum { TOKENIZER_TEXT_BYTES_MAX = INT32_MAX };

struct tokenizer_encode_params {
    /*
     * UTF-8, may hold NUL. Invalid bytes are never refused: after special tokens are cut out, each
     * longest run of invalid bytes is a piece of its own, tokenized as the bytes it is, and the
     * text on either side of it is split as if it began or ended there. So the pieces of the ids
     * always join to exactly this text.
     */
    const char *text;
    size_t len;        /* ERR_INVALID above TOKENIZER_TEXT_BYTES_MAX */
    int parse_special; /* control tokens' text in TEXT becomes the control token */
    int add_bos; /* put BOS in front, if the model's metadata asks for it; EOS behind likewise */
};

/* Appends to OUT; on failure OUT is as before. */
MUST_USE enum err tokenizer_encode(const struct tokenizer *tokenizer,
                                   const struct tokenizer_encode_params *params,
                                   struct token_list *out);

/*
 * The first control token's text in TEXT at or behind FROM, as tokenizer_encode with parse_special
 * finds it; 0 if there is none. For callers that trust only part of a text.
 */
int tokenizer_find_control(const struct tokenizer *tokenizer, const char *text, size_t len,
                           size_t from, struct tokenizer_special_match *out);

/*
 * The bytes of one token: control tokens only if SPECIAL, else none. Valid as long as the
 * tokenizer, not terminated. ERR_INVALID for an id out of range.
 */
MUST_USE enum err tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, int special,
                                  const char **bytes, size_t *len);

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer); /* number of tokens */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);        /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);        /* -1: none */
int tokenizer_adds_bos(const struct tokenizer *tokenizer);       /* does add_bos put BOS in front */

/* Does generation end at ID: EOS, or the eot / eom ids that the file names. */
int tokenizer_ends_generation(const struct tokenizer *tokenizer, int32_t id);

/*
 * 32 bytes over everything that text to ids depends on (model, pre-tokenizer, tokens, types,
 * merges, flags): part of the dialect digest.
 */
void tokenizer_digest(const struct tokenizer *tokenizer, uint8_t out[32]);

#endif
