/*
 * Text to token ids and back, from the tokenizer.ggml.* keys of a GGUF: byte-level
 * BPE (pre-tokenizers gpt-2, dbrx, llama-bpe, default and the names that share
 * them). Immutable after creation: any thread may use it at once.
 */
#ifndef TERN_ENGINE_TOKENIZER_H
#define TERN_ENGINE_TOKENIZER_H

#include "base/err.h"
#include "engine/gguf.h"

struct tokenizer;

/* A growing list of ids, owned by the caller. */
struct token_list {
    int32_t *ids;
    size_t count;
    size_t capacity;
};

void token_list_done(struct token_list *list); /* also fits CLEANUP */
MUST_USE enum err token_list_append(struct token_list *list, const int32_t *ids, size_t count);

/*
 * Copies all it needs: FILE may be closed afterwards. ERR_FORMAT for contradictory keys,
 * ERR_UNSUPPORTED for a model or pre-tokenizer it does not know (never a silent fallback).
 */
MUST_USE enum err tokenizer_create(const struct gguf *file, struct tokenizer **out);
void tokenizer_destroy(struct tokenizer *tokenizer);

struct tokenizer_encode_params {
    const char *text; /* UTF-8; invalid bytes are tokenized as bytes, never refused */
    size_t len;
    int parse_special; /* control tokens' text in TEXT becomes the control token */
    int add_bos; /* put BOS in front, if the model's metadata asks for it; EOS behind likewise */
};

/* Appends to OUT; on failure OUT is as before. */
MUST_USE enum err tokenizer_encode(const struct tokenizer *tokenizer,
                                   const struct tokenizer_encode_params *params,
                                   struct token_list *out);

/*
 * The bytes of one token: control tokens only if SPECIAL, else none. Valid as long as the
 * tokenizer. ERR_INVALID for an id out of range.
 */
MUST_USE enum err tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, int special,
                                  const char **bytes, size_t *len);

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer); /* number of tokens */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);        /* -1: none */
int32_t tokenizer_eos(const struct tokenizer *tokenizer);        /* -1: none */

/* Does generation end at ID: EOS, or the eot / eom ids that the file names. */
int tokenizer_ends_generation(const struct tokenizer *tokenizer, int32_t id);

/*
 * 32 bytes over everything that text to ids depends on (model, pre-tokenizer, tokens, types,
 * merges, flags): part of the dialect digest.
 */
void tokenizer_digest(const struct tokenizer *tokenizer, uint8_t out[32]);

/*
 * Streaming: tokens' bytes in, whole characters out. Bytes of an incomplete character are held
 * back until it is complete or cannot become one any more; then each maximal invalid part comes
 * out as U+FFFD. Embedded by value, no memory of its own.
 */
struct utf8_stream {
    uint8_t held[4];
    int held_count;
};

/* Appends at most 3 * len + 12 bytes of valid UTF-8 to OUT; returns how many. */
size_t utf8_stream_push(struct utf8_stream *stream, const char *bytes, size_t len, char *out);

/* The end of the text: what is still held comes out as U+FFFD; at most 12 bytes. */
size_t utf8_stream_finish(struct utf8_stream *stream, char *out);

#endif
