/*
 * The tokenizer over a hostile text and a hostile vocabulary. The first byte chooses:
 *
 *   bit 0     the rest is a vocabulary file and, behind it, a text; else a text alone
 *   bit 1     special tokens are recognised
 *   bits 2-3  the pre-tokenizer of the vocabulary that is used for a text alone
 *
 * In a file with a vocabulary the next two bytes are the text's length, little-endian, and the text
 * is at the end.
 */
#include "engine/utf8.h"
#include "tests/gguf/vocabulary_image.h"

#include <stdlib.h>
#include <string.h>

enum { VOCABULARY_FLAG = 1, SPECIAL_FLAG = 2, PRETOKENIZERS = 4, TEXT_HEADER = 1, FILE_HEADER = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const struct vocabulary_image_token tokens[] = {
    {"<s>", 3},       {"</s>", 3}, {"<think>", 4}, {"<think>\n", 4}, {"[PAD]", 5},
    {"\xc4\xa0t", 1}, {"he", 1},   {"ll", 1},      {"hell", 1},      {"hello", 1},
    {"aa", 1},        {"aaaa", 1}, {"12", 1},      {"123", 1},       {"\xc4\xa0\xc4\xa0", 1},
    {"'s", 1},        {"ab", 1},
};

static const char *const merges[] = {
    "\xc4\xa0 \xc4\xa0", "a a", "h e", "l l", "aa aa", "he ll", "1 2", "12 3", "' s",
    "\xc4\xa0 t",        "a b"};

static void check(int is_true) {
    if (!is_true) {
        abort();
    }
}

/* What the ids write, special ones too, must be the text; streamed it must be UTF-8. */
static void check_text(const struct tokenizer *tokenizer, const char *text, size_t len,
                       int parse_special) {
    struct token_list list = {0};
    struct utf8_stream stream = {0};
    char *streamed = malloc(3 * len + 64);
    size_t streamed_len = 0;
    size_t at = 0;
    check(streamed != NULL);
    struct tokenizer_encode_params params = {
        .text = text, .len = len, .parse_special = parse_special};
    check(tokenizer_encode(tokenizer, &params, &list) == ERR_OK);
    for (size_t i = 0; i < list.count; i++) {
        const char *piece;
        size_t piece_len;
        check(tokenizer_piece(tokenizer, list.ids[i], parse_special, &piece, &piece_len) == ERR_OK);
        check(piece_len > 0 && piece_len <= len - at);
        check(memcmp(piece, text + at, piece_len) == 0);
        at += piece_len;
        streamed_len += utf8_stream_push(&stream, piece, piece_len, streamed + streamed_len);
    }
    streamed_len += utf8_stream_finish(&stream, streamed + streamed_len);
    check(at == len);
    check(streamed_len <= 3 * len);
    check(utf8_valid_prefix(streamed, streamed_len) == streamed_len);
    token_list_done(&list);
    free(streamed);
}

static const struct tokenizer *known_vocabulary(int choice) {
    static const char *const names[PRETOKENIZERS] = {"gpt-2", "dbrx", "llama-bpe", "default"};
    static struct tokenizer *tokenizers[PRETOKENIZERS];
    if (tokenizers[choice] == NULL) {
        struct vocabulary_image spec = {
            .model = "gpt2",
            .pre = names[choice],
            .tokens = tokens,
            .token_count = ARRAY_LEN(tokens),
            .merges = merges,
            .merge_count = ARRAY_LEN(merges),
            .leaves_out_byte = -1,
        };
        check(vocabulary_image_load(&spec, &tokenizers[choice]) == ERR_OK);
    }
    return tokenizers[choice];
}

static void check_vocabulary(const uint8_t *data, size_t bytes) {
    size_t text_len = data[1] | (size_t)data[2] << 8;
    size_t rest = bytes - FILE_HEADER;
    text_len = text_len < rest ? text_len : rest;
    size_t file_len = rest - text_len;
    uint8_t *file = malloc(file_len + 1); /* aligned, which gguf_parse wants */
    struct tokenizer *tokenizer = NULL;
    check(file != NULL);
    memcpy(file, data + FILE_HEADER, file_len);
    err_clear();
    enum err err = vocabulary_image_parse(file, file_len, &tokenizer);
    free(file); /* the tokenizer has copied all it needs */
    if (err != ERR_OK) {
        check(tokenizer == NULL && err_message()[0] != '\0');
        return;
    }
    check_text(tokenizer, (const char *)data + bytes - text_len, text_len, data[0] & SPECIAL_FLAG);
    for (int32_t id = 0; id < tokenizer_vocabulary(tokenizer); id++) {
        const char *piece;
        size_t len;
        check(tokenizer_piece(tokenizer, id, 1, &piece, &len) == ERR_OK);
        static volatile char last;
        last = len > 0 ? piece[len - 1] : last;
    }
    tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes < FILE_HEADER) {
        return 0;
    }
    if (data[0] & VOCABULARY_FLAG) {
        check_vocabulary(data, bytes);
        return 0;
    }
    check_text(known_vocabulary(data[0] >> 2 & (PRETOKENIZERS - 1)),
               (const char *)data + TEXT_HEADER, bytes - TEXT_HEADER, data[0] & SPECIAL_FLAG);
    return 0;
}
