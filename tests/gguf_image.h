/*
 * Builds GGUF files without tensors in memory, for tests and fuzz targets that need a vocabulary
 * of their own. Aborts when memory runs out. Header only, so that every test links alone.
 */
#ifndef TERN_TESTS_GGUF_IMAGE_H
#define TERN_TESTS_GGUF_IMAGE_H

#include "base/buf.h"
#include "engine/gguf.h"

#include <stdlib.h>
#include <string.h>

enum { GGUF_IMAGE_HEADER_BYTES = 24, GGUF_IMAGE_KEYS_AT = 16 };

struct gguf_image {
    struct buf buf;
    uint64_t key_count;
};

static inline void gguf_image_bytes(struct gguf_image *image, const void *bytes, size_t len) {
    if (buf_append(&image->buf, bytes, len) != ERR_OK) {
        abort();
    }
}

static inline void gguf_image_number(struct gguf_image *image, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        gguf_image_bytes(image, &byte, 1);
    }
}

static inline void gguf_image_text(struct gguf_image *image, const char *text, size_t len) {
    gguf_image_number(image, len, 8);
    gguf_image_bytes(image, text, len);
}

static inline void gguf_image_init(struct gguf_image *image) {
    buf_init(&image->buf, SIZE_MAX / 4);
    image->key_count = 0;
    gguf_image_bytes(image, "GGUF", 4);
    gguf_image_number(image, 3, 4); /* version */
    gguf_image_number(image, 0, 8); /* tensors */
    gguf_image_number(image, 0, 8); /* keys, set by gguf_image_open */
}

static inline void gguf_image_done(struct gguf_image *image) {
    buf_done(&image->buf);
}

static inline void gguf_image_key(struct gguf_image *image, const char *key, enum gguf_type type) {
    gguf_image_text(image, key, strlen(key));
    gguf_image_number(image, (uint64_t)type, 4);
    image->key_count++;
}

static inline void gguf_image_string(struct gguf_image *image, const char *key, const char *text) {
    gguf_image_key(image, key, GGUF_TYPE_STRING);
    gguf_image_text(image, text, strlen(text));
}

static inline void gguf_image_u32(struct gguf_image *image, const char *key, uint32_t value) {
    gguf_image_key(image, key, GGUF_TYPE_U32);
    gguf_image_number(image, value, 4);
}

static inline void gguf_image_bool(struct gguf_image *image, const char *key, int value) {
    gguf_image_key(image, key, GGUF_TYPE_BOOL);
    gguf_image_number(image, value != 0, 1);
}

/* Its COUNT elements follow, by gguf_image_text or gguf_image_number. */
static inline void gguf_image_array(struct gguf_image *image, const char *key, enum gguf_type type,
                                    uint64_t count) {
    gguf_image_key(image, key, GGUF_TYPE_ARRAY);
    gguf_image_number(image, (uint64_t)type, 4);
    gguf_image_number(image, count, 8);
}

/* The file over the image, which must outlive it and not change. */
static inline enum err gguf_image_open(struct gguf_image *image, struct gguf **out) {
    for (size_t i = 0; i < 8; i++) {
        image->buf.data[GGUF_IMAGE_KEYS_AT + i] = (uint8_t)(image->key_count >> (8 * i));
    }
    return gguf_parse(image->buf.data, image->buf.len, out);
}

#endif
