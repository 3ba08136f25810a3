/*
 * Three steps: special tokens are cut out of the text; each stretch between is split by the
 * pre-tokenizer's patterns; each piece is merged. What differs between kinds of tokenizer is
 * encode_stretch and what creation loads for it.
 */
#include "engine/tokenizer.h"

#include "engine/pretokenizer.h"
#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_pattern.h"
#include "engine/tokenizer_special.h"
#include "engine/tokenizer_vocab.h"
#include "engine/utf8.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGEST_BYTES = 32, NO_TOKEN = -1 };

struct tokenizer {
    struct tokenizer_vocab vocab;
    const struct pretokenizer *pretokenizer;
    struct tokenizer_pattern *pattern;
    struct tokenizer_bpe bpe;
    struct tokenizer_special user;        /* user-defined tokens */
    struct tokenizer_special all_special; /* and control tokens */
    int32_t bos;
    int32_t eos;
    int32_t eot; /* end of turn, of message: where generation ends beside EOS */
    int32_t eom;
    int adds_bos;
    int adds_eos;
    uint8_t digest[DIGEST_BYTES];
};

/* Loading. */

static enum err read_pretokenizer(struct tokenizer *tokenizer, const struct gguf *file) {
    struct gguf_string model;
    enum err err = gguf_get_string(file, "tokenizer.ggml.model", &model);
    if (err == ERR_NOT_FOUND) {
        return err_fail(ERR_FORMAT, "tokenizer.ggml.model is missing");
    }
    TRY(err);
    if (model.len != 4 || memcmp(model.text, "gpt2", 4) != 0) {
        return err_fail(ERR_UNSUPPORTED,
                        "tokenizer.ggml.model '%.*s' is not supported, expected 'gpt2'",
                        model.len < 80 ? (int)model.len : 80, model.text);
    }
    struct gguf_string pre = {.text = "default", .len = 7};
    err = gguf_get_string(file, "tokenizer.ggml.pre", &pre);
    if (err != ERR_OK && err != ERR_NOT_FOUND) {
        return err;
    }
    tokenizer->pretokenizer = pretokenizer_find(pre.text, pre.len);
    if (tokenizer->pretokenizer == NULL) {
        return err_fail(ERR_UNSUPPORTED,
                        "tokenizer.ggml.pre '%.*s' is not supported, expected gpt-2, dbrx, "
                        "llama-bpe, default or a name that shares their patterns",
                        pre.len < 80 ? (int)pre.len : 80, pre.text);
    }
    return ERR_OK;
}

/* NO_TOKEN without the key. */
static enum err read_id(const struct tokenizer *tokenizer, const struct gguf *file, const char *key,
                        int32_t *out) {
    uint32_t id;
    enum err err = gguf_get_u32(file, key, &id);
    if (err == ERR_NOT_FOUND) {
        *out = NO_TOKEN;
        return ERR_OK;
    }
    TRY(err);
    if (id >= (uint32_t)tokenizer->vocab.count) {
        return err_fail(ERR_FORMAT, "%s is %u, expected less than the number of tokens, %d", key,
                        id, tokenizer->vocab.count);
    }
    *out = (int32_t)id;
    return ERR_OK;
}

/*
 * A file that asks for a token which it does not name contradicts itself. Where only the
 * pre-tokenizer's name asks, there is none to add.
 */
static enum err read_flag(const struct gguf *file, const char *key, const char *id_key, int32_t id,
                          int preset, int *out) {
    int flag = 0;
    enum err err = gguf_get_bool(file, key, &flag);
    if (err == ERR_NOT_FOUND) {
        *out = preset && id != NO_TOKEN;
        return ERR_OK;
    }
    TRY(err);
    if (flag && id == NO_TOKEN) {
        return err_fail(ERR_FORMAT, "%s is true, but %s is missing", key, id_key);
    }
    *out = flag;
    return ERR_OK;
}

static enum err read_ids(struct tokenizer *tokenizer, const struct gguf *file) {
    static const char bos_key[] = "tokenizer.ggml.bos_token_id";
    static const char eos_key[] = "tokenizer.ggml.eos_token_id";
    TRY(read_id(tokenizer, file, bos_key, &tokenizer->bos));
    TRY(read_id(tokenizer, file, eos_key, &tokenizer->eos));
    TRY(read_id(tokenizer, file, "tokenizer.ggml.eot_token_id", &tokenizer->eot));
    TRY(read_id(tokenizer, file, "tokenizer.ggml.eom_token_id", &tokenizer->eom));
    TRY(read_flag(file, "tokenizer.ggml.add_bos_token", bos_key, tokenizer->bos,
                  tokenizer->pretokenizer->adds_bos, &tokenizer->adds_bos));
    return read_flag(file, "tokenizer.ggml.add_eos_token", eos_key, tokenizer->eos, 0,
                     &tokenizer->adds_eos);
}

/* Each part with its length in front, so that no two contents feed the same bytes. */
static void digest_bytes(crypto_generichash_state *state, const void *bytes, uint64_t len) {
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) {
        prefix[i] = (uint8_t)(len >> (8 * i));
    }
    crypto_generichash_update(state, prefix, sizeof prefix);
    crypto_generichash_update(state, bytes, len);
}

static void digest_number(crypto_generichash_state *state, int64_t number) {
    char text[24];
    int len = snprintf(text, sizeof text, "%lld", (long long)number);
    digest_bytes(state, text, (uint64_t)len);
}

static enum err digest_strings(crypto_generichash_state *state, const struct gguf *file,
                               const char *key) {
    struct gguf_array strings;
    TRY(gguf_get_array(file, key, &strings));
    digest_number(state, (int64_t)strings.count);
    for (uint64_t i = 0; i < strings.count; i++) {
        struct gguf_string text;
        TRY(gguf_array_string(&strings, i, &text));
        digest_bytes(state, text.text, text.len);
    }
    return ERR_OK;
}

static enum err digest_all(struct tokenizer *tokenizer, const struct gguf *file) {
    static const char format[] = "tern tokenizer 1";
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, DIGEST_BYTES);
    digest_bytes(&state, format, sizeof format - 1);
    digest_bytes(&state, "gpt2", 4);
    const char *group = tokenizer->pretokenizer->name;
    digest_bytes(&state, group, strlen(group));
    digest_number(&state, tokenizer->adds_bos);
    digest_number(&state, tokenizer->adds_eos);
    digest_number(&state, tokenizer->bos);
    digest_number(&state, tokenizer->eos);
    TRY(digest_strings(&state, file, "tokenizer.ggml.tokens"));
    TRY(digest_strings(&state, file, "tokenizer.ggml.merges"));
    digest_bytes(&state, tokenizer->vocab.kinds, (uint64_t)tokenizer->vocab.count);
    crypto_generichash_final(&state, tokenizer->digest, DIGEST_BYTES);
    return ERR_OK;
}

static enum err load(struct tokenizer *tokenizer, const struct gguf *file) {
    TRY(read_pretokenizer(tokenizer, file));
    TRY(tokenizer_vocab_init(&tokenizer->vocab, file));
    TRY(read_ids(tokenizer, file));
    TRY(tokenizer_bpe_init(&tokenizer->bpe, &tokenizer->vocab, file,
                           tokenizer->pretokenizer->ignores_merges));
    TRY(tokenizer_special_init(&tokenizer->user, &tokenizer->vocab, 0));
    TRY(tokenizer_special_init(&tokenizer->all_special, &tokenizer->vocab, 1));
    TRY(tokenizer_pattern_create(tokenizer->pretokenizer->stages, &tokenizer->pattern));
    return digest_all(tokenizer, file);
}

enum err tokenizer_create(const struct gguf *file, struct tokenizer **out) {
    if (sodium_init() < 0) {
        return err_fail(ERR_UNSUPPORTED, "libsodium cannot be initialised");
    }
    struct tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return err_fail(ERR_NOMEM, "tokenizer");
    }
    enum err err = load(tokenizer, file);
    if (err != ERR_OK) {
        tokenizer_destroy(tokenizer);
        return err;
    }
    *out = tokenizer;
    return ERR_OK;
}

void tokenizer_destroy(struct tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    tokenizer_pattern_destroy(tokenizer->pattern);
    tokenizer_special_done(&tokenizer->all_special);
    tokenizer_special_done(&tokenizer->user);
    tokenizer_bpe_done(&tokenizer->bpe);
    tokenizer_vocab_done(&tokenizer->vocab);
    free(tokenizer);
}

/* Text to ids. */

struct encoding {
    const struct tokenizer *tokenizer;
    struct tokenizer_bpe_scratch scratch;
    struct token_list *out;
};

static enum err take_piece(void *context, const char *piece, size_t len) {
    struct encoding *encoding = context;
    return tokenizer_bpe_encode(&encoding->tokenizer->bpe, &encoding->scratch, piece, len,
                                encoding->out);
}

/* Text without special tokens. The patterns see valid UTF-8 only. */
static enum err encode_stretch(struct encoding *encoding, const char *text, size_t len) {
    struct tokenizer_pattern_sink sink = {.take = take_piece, .context = encoding};
    while (len > 0) {
        size_t valid = utf8_valid_prefix(text, len);
        if (valid > 0) {
            TRY(tokenizer_pattern_split(encoding->tokenizer->pattern, text, valid, &sink));
        }
        size_t invalid = utf8_invalid_prefix(text + valid, len - valid);
        if (invalid > 0) {
            TRY(take_piece(encoding, text + valid, invalid));
        }
        text += valid + invalid;
        len -= valid + invalid;
    }
    return ERR_OK;
}

static enum err encode_text(struct encoding *encoding, const char *text, size_t len,
                            const struct tokenizer_special *special) {
    size_t at = 0;
    struct tokenizer_special_match match;
    while (tokenizer_special_find(special, text, len, at, &match)) {
        TRY(encode_stretch(encoding, text + at, match.at - at));
        TRY(token_list_append(encoding->out, &match.id, 1));
        at = match.at + match.len;
    }
    return encode_stretch(encoding, text + at, len - at);
}

static enum err encode(struct encoding *encoding, const struct tokenizer_encode_params *params) {
    const struct tokenizer *tokenizer = encoding->tokenizer;
    if (params->add_bos && tokenizer->adds_bos) {
        TRY(token_list_append(encoding->out, &tokenizer->bos, 1));
    }
    if (params->len > 0) {
        TRY(encode_text(encoding, params->text, params->len,
                        params->parse_special ? &tokenizer->all_special : &tokenizer->user));
    }
    if (params->add_bos && tokenizer->adds_eos) {
        TRY(token_list_append(encoding->out, &tokenizer->eos, 1));
    }
    return ERR_OK;
}

enum err tokenizer_encode(const struct tokenizer *tokenizer,
                          const struct tokenizer_encode_params *params, struct token_list *out) {
    if (params->len > TOKENIZER_TEXT_BYTES_MAX) {
        return err_fail(ERR_INVALID, "text of %zu bytes, expected at most %d", params->len,
                        TOKENIZER_TEXT_BYTES_MAX);
    }
    size_t count = out->count;
    struct encoding encoding = {.tokenizer = tokenizer, .out = out};
    enum err err = encode(&encoding, params);
    tokenizer_bpe_scratch_done(&encoding.scratch);
    if (err != ERR_OK) {
        out->count = count;
    }
    return err;
}

int tokenizer_find_control(const struct tokenizer *tokenizer, const char *text, size_t len,
                           size_t from, struct tokenizer_special_match *out) {
    struct tokenizer_special_match match;
    while (tokenizer_special_find(&tokenizer->all_special, text, len, from, &match)) {
        if (tokenizer->vocab.kinds[match.id] == TOKENIZER_VOCAB_CONTROL) {
            *out = match;
            return 1;
        }
        from = match.at + match.len;
    }
    return 0;
}

/* Ids to text, and what is known of ids. */

enum err tokenizer_piece(const struct tokenizer *tokenizer, int32_t id, int special,
                         const char **bytes, size_t *len) {
    const struct tokenizer_vocab *vocab = &tokenizer->vocab;
    if (id < 0 || id >= vocab->count) {
        return err_fail(ERR_INVALID, "token id %d is outside the vocabulary of %d tokens", id,
                        vocab->count);
    }
    *bytes = tokenizer_vocab_bytes(vocab, id, len);
    uint8_t kind = vocab->kinds[id];
    if (kind == TOKENIZER_VOCAB_UNUSED || (kind == TOKENIZER_VOCAB_CONTROL && !special)) {
        *len = 0;
    }
    return ERR_OK;
}

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer) {
    return tokenizer->vocab.count;
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tokenizer) {
    return tokenizer->eos;
}

int tokenizer_adds_bos(const struct tokenizer *tokenizer) {
    return tokenizer->adds_bos;
}

int tokenizer_ends_generation(const struct tokenizer *tokenizer, int32_t id) {
    return id != NO_TOKEN && (id == tokenizer->eos || id == tokenizer->eot || id == tokenizer->eom);
}

void tokenizer_digest(const struct tokenizer *tokenizer, uint8_t out[32]) {
    memcpy(out, tokenizer->digest, DIGEST_BYTES);
}
