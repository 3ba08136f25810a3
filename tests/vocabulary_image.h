/*
 * Small byte-level vocabularies, as GGUF files in memory: the 256 bytes as tokens 0 to 255, then
 * what a test adds. Header only, so that every test links alone.
 */
#ifndef TERN_TESTS_VOCABULARY_IMAGE_H
#define TERN_TESTS_VOCABULARY_IMAGE_H

#include "engine/tokenizer.h"
#include "tests/gguf_image.h"

enum { VOCABULARY_IMAGE_NORMAL = 1, VOCABULARY_IMAGE_BYTES = 256 };

struct vocabulary_image_token {
    const char *text; /* as in the file: mapped for normal tokens */
    int type;
};

struct vocabulary_image {
    const char *model; /* NULL leaves the key out, here and below */
    const char *pre;
    const struct vocabulary_image_token *tokens; /* behind the 256 */
    size_t token_count;
    const char *const *merges;
    size_t merge_count;
    int leaves_out_byte; /* a byte without a token, -1: none */
    int has_no_types;
    void (*add)(struct gguf_image *image); /* more keys; NULL: none */
};

/* The character that stands for BYTE, as UTF-8; returns its length. */
static inline size_t vocabulary_image_map(int byte, char out[4]) {
    int stands_for_itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                            (byte >= 0xae && byte <= 0xff);
    int point = byte;
    if (!stands_for_itself) {
        point = byte <= 0x20 ? 0x100 + byte : byte == 0xad ? 0x143 : 0x121 + byte - 0x7f;
    }
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    out[0] = (char)(0xc0 | point >> 6);
    out[1] = (char)(0x80 | (point & 0x3f));
    return 2;
}

static inline void vocabulary_image_write(const struct vocabulary_image *spec,
                                          struct gguf_image *image) {
    gguf_image_init(image);
    if (spec->model != NULL) {
        gguf_image_string(image, "tokenizer.ggml.model", spec->model);
    }
    if (spec->pre != NULL) {
        gguf_image_string(image, "tokenizer.ggml.pre", spec->pre);
    }
    uint64_t count = VOCABULARY_IMAGE_BYTES + spec->token_count;
    gguf_image_array(image, "tokenizer.ggml.tokens", GGUF_TYPE_STRING, count);
    for (int byte = 0; byte < VOCABULARY_IMAGE_BYTES; byte++) {
        char text[4];
        size_t len = vocabulary_image_map(byte, text);
        if (byte == spec->leaves_out_byte) {
            gguf_image_text(image, "left out", 8);
        } else {
            gguf_image_text(image, text, len);
        }
    }
    for (size_t i = 0; i < spec->token_count; i++) {
        gguf_image_text(image, spec->tokens[i].text, strlen(spec->tokens[i].text));
    }
    if (!spec->has_no_types) {
        gguf_image_array(image, "tokenizer.ggml.token_type", GGUF_TYPE_I32, count);
        for (uint64_t i = 0; i < count; i++) {
            int type = i < VOCABULARY_IMAGE_BYTES ? VOCABULARY_IMAGE_NORMAL
                                                  : spec->tokens[i - VOCABULARY_IMAGE_BYTES].type;
            gguf_image_number(image, (uint64_t)type, 4);
        }
    }
    gguf_image_array(image, "tokenizer.ggml.merges", GGUF_TYPE_STRING, spec->merge_count);
    for (size_t i = 0; i < spec->merge_count; i++) {
        gguf_image_text(image, spec->merges[i], strlen(spec->merges[i]));
    }
    if (spec->add != NULL) {
        spec->add(image);
    }
}

static inline enum err vocabulary_image_open(struct gguf_image *image, struct tokenizer **out) {
    struct gguf *file;
    TRY(gguf_image_open(image, &file));
    enum err err = tokenizer_create(file, out);
    gguf_close(file);
    return err;
}

static inline enum err vocabulary_image_load(const struct vocabulary_image *spec,
                                             struct tokenizer **out) {
    struct gguf_image image;
    vocabulary_image_write(spec, &image);
    enum err err = vocabulary_image_open(&image, out);
    gguf_image_done(&image);
    return err;
}

#endif
