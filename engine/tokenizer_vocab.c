/*
 * What a file may hold and how it is read:
 *
 * I1  Two normal tokens never write the same bytes: the text to ids would be ambiguous.
 * I2  Likewise two tokens of the kinds that are cut out of the text (control, unknown,
 *     user-defined) never have the same text. A normal and a special token may: "EN" mapped and
 *     "EN" plain are found by different ways.
 * I3  An empty token is unused: files exist that fill gaps of the vocabulary with them.
 * I4  A normal token whose text holds a character outside the byte map writes its text as it is,
 *     and is not reached from text.
 */
#include "engine/tokenizer_vocab.h"

#include "engine/byte_map.h"

#include <stdlib.h>
#include <string.h>

static const char tokens_key[] = "tokenizer.ggml.tokens";
static const char types_key[] = "tokenizer.ggml.token_type";

/* tokenizer.ggml.token_type */
enum file_type {
    FILE_TYPE_NORMAL = 1,
    FILE_TYPE_UNKNOWN = 2,
    FILE_TYPE_CONTROL = 3,
    FILE_TYPE_USER = 4,
    FILE_TYPE_UNUSED = 5,
};

static enum err kind_of_type(int64_t type, uint64_t token, enum tokenizer_vocab_kind *out) {
    switch (type) {
    case FILE_TYPE_NORMAL:
        *out = TOKENIZER_VOCAB_NORMAL;
        return ERR_OK;
    case FILE_TYPE_UNKNOWN:
    case FILE_TYPE_CONTROL:
        *out = TOKENIZER_VOCAB_CONTROL;
        return ERR_OK;
    case FILE_TYPE_USER:
        *out = TOKENIZER_VOCAB_USER;
        return ERR_OK;
    case FILE_TYPE_UNUSED:
        *out = TOKENIZER_VOCAB_UNUSED;
        return ERR_OK;
    default:
        return err_fail(ERR_FORMAT, "%s: token %llu has type %lld, expected 1 to 5", types_key,
                        (unsigned long long)token, (long long)type);
    }
}

static enum err read_tokens(const struct gguf *file, struct gguf_array *tokens) {
    enum err err = gguf_get_array(file, tokens_key, tokens);
    if (err == ERR_NOT_FOUND) {
        return err_fail(ERR_FORMAT, "%s is missing", tokens_key);
    }
    TRY(err);
    if (tokens->type != GGUF_TYPE_STRING) {
        return err_fail(ERR_FORMAT, "%s is not an array of strings", tokens_key);
    }
    if (tokens->count > INT32_MAX) {
        return err_fail(ERR_FORMAT, "%s holds %llu tokens, expected at most %d", tokens_key,
                        (unsigned long long)tokens->count, INT32_MAX);
    }
    return ERR_OK;
}

/* Without the key every token is normal. */
static enum err read_kinds(struct tokenizer_vocab *vocab, const struct gguf *file) {
    struct gguf_array types;
    enum err err = gguf_get_array(file, types_key, &types);
    if (err == ERR_NOT_FOUND) {
        memset(vocab->kinds, TOKENIZER_VOCAB_NORMAL, (size_t)vocab->count);
        return ERR_OK;
    }
    TRY(err);
    if (types.count != (uint64_t)vocab->count) {
        return err_fail(ERR_FORMAT, "%s holds %llu types for %d tokens", types_key,
                        (unsigned long long)types.count, vocab->count);
    }
    for (uint64_t i = 0; i < types.count; i++) {
        int64_t type;
        enum tokenizer_vocab_kind kind = TOKENIZER_VOCAB_NORMAL;
        err = gguf_array_i64(&types, i, &type);
        if (err != ERR_OK) {
            return err_context(err, "%s", types_key);
        }
        TRY(kind_of_type(type, i, &kind));
        vocab->kinds[i] = (uint8_t)kind;
    }
    return ERR_OK;
}

static enum err allocate(struct tokenizer_vocab *vocab, const struct gguf_array *tokens) {
    size_t bytes = 1; /* never an allocation of none */
    for (uint64_t i = 0; i < tokens->count; i++) {
        struct gguf_string text;
        enum err err = gguf_array_string(tokens, i, &text);
        if (err != ERR_OK) {
            return err_context(err, "%s", tokens_key);
        }
        bytes += text.len; /* cannot wrap: all texts lie in one file */
    }
    vocab->count = (int32_t)tokens->count;
    vocab->kinds = calloc((size_t)tokens->count + 1, 1);
    vocab->offsets = calloc((size_t)tokens->count + 1, sizeof *vocab->offsets);
    vocab->bytes = malloc(bytes);
    if (vocab->kinds == NULL || vocab->offsets == NULL || vocab->bytes == NULL) {
        return err_fail(ERR_NOMEM, "%s: %d tokens", tokens_key, vocab->count);
    }
    return ERR_OK;
}

/* Copies or maps the texts, and settles the kinds of those that I3 and I4 speak of. */
static enum err read_texts(struct tokenizer_vocab *vocab, const struct gguf_array *tokens) {
    size_t at = 0;
    for (int32_t i = 0; i < vocab->count; i++) {
        struct gguf_string text;
        TRY(gguf_array_string(tokens, (uint64_t)i, &text));
        size_t len = text.len;
        vocab->offsets[i] = at;
        if (len == 0) {
            vocab->kinds[i] = TOKENIZER_VOCAB_UNUSED;
            continue;
        }
        if (vocab->kinds[i] != TOKENIZER_VOCAB_NORMAL) {
            memcpy(vocab->bytes + at, text.text, len);
        } else if (!byte_map_decode(text.text, text.len, vocab->bytes + at, &len)) {
            memcpy(vocab->bytes + at, text.text, len);
            vocab->kinds[i] = TOKENIZER_VOCAB_PLAIN;
        }
        at += len;
    }
    vocab->offsets[vocab->count] = at;
    return ERR_OK;
}

static int is_cut_out(uint8_t kind) {
    return kind == TOKENIZER_VOCAB_CONTROL || kind == TOKENIZER_VOCAB_USER;
}

static enum err index_token(struct tokenizer_vocab *vocab, int32_t id) {
    uint8_t kind = vocab->kinds[id];
    size_t len;
    const char *bytes = tokenizer_vocab_bytes(vocab, id, &len);
    if (len == 0) {
        return ERR_OK;
    }
    int is_normal = kind == TOKENIZER_VOCAB_NORMAL;
    struct token_index *index = is_normal ? &vocab->normal : &vocab->other;
    int32_t first = token_index_insert(index, bytes, len, id);
    if (first >= 0 && (is_normal || (is_cut_out(kind) && is_cut_out(vocab->kinds[first])))) {
        return err_fail(ERR_FORMAT, "%s: tokens %d and %d have the same text", tokens_key, first,
                        id);
    }
    return ERR_OK;
}

static enum err index_tokens(struct tokenizer_vocab *vocab) {
    size_t normal_count = 0;
    for (int32_t i = 0; i < vocab->count; i++) {
        normal_count += vocab->kinds[i] == TOKENIZER_VOCAB_NORMAL;
    }
    TRY(token_index_init(&vocab->normal, normal_count));
    TRY(token_index_init(&vocab->other, (size_t)vocab->count - normal_count));
    /* Those that are cut out first, so that a duplicate among them meets its twin (I2). */
    for (int is_second_pass = 0; is_second_pass < 2; is_second_pass++) {
        for (int32_t i = 0; i < vocab->count; i++) {
            if (is_cut_out(vocab->kinds[i]) != is_second_pass) {
                TRY(index_token(vocab, i));
            }
        }
    }
    return ERR_OK;
}

enum err tokenizer_vocab_init(struct tokenizer_vocab *vocab, const struct gguf *file) {
    struct gguf_array tokens;
    TRY(read_tokens(file, &tokens));
    enum err err = allocate(vocab, &tokens);
    if (err == ERR_OK) {
        err = read_kinds(vocab, file);
    }
    if (err == ERR_OK) {
        err = read_texts(vocab, &tokens);
    }
    if (err == ERR_OK) {
        err = index_tokens(vocab);
    }
    if (err != ERR_OK) {
        tokenizer_vocab_done(vocab);
    }
    return err;
}

void tokenizer_vocab_done(struct tokenizer_vocab *vocab) {
    free(vocab->kinds);
    free(vocab->offsets);
    free(vocab->bytes);
    token_index_done(&vocab->normal);
    token_index_done(&vocab->other);
    *vocab = (struct tokenizer_vocab){0};
}

const char *tokenizer_vocab_bytes(const struct tokenizer_vocab *vocab, int32_t id, size_t *len) {
    *len = vocab->offsets[id + 1] - vocab->offsets[id];
    return vocab->bytes + vocab->offsets[id];
}
