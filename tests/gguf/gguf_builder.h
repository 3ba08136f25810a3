/*
 * Writes GGUF files in memory, for tests: right ones by default, wrong ones where a
 * test asks for it (any name, type number, offset or raw bytes). Running out of
 * memory aborts the test.
 */
#ifndef TERN_TESTS_GGUF_BUILDER_H
#define TERN_TESTS_GGUF_BUILDER_H

#include "base/buf.h"
#include "engine/gguf.h"

struct gguf_builder {
    struct buf keys;
    struct buf tensors;
    struct buf data;
    uint32_t version;
    uint64_t key_count;
    uint64_t tensor_count;
    size_t alignment; /* of tensor data; the key general.alignment is written by the test */
};

void gguf_builder_init(struct gguf_builder *builder);
void gguf_builder_done(struct gguf_builder *builder); /* also fits CLEANUP */

/* A key with its value; BYTES of VALUE are written as they are. */
void gguf_builder_value(struct gguf_builder *builder, const char *key, uint32_t type,
                        const void *value, size_t bytes);
void gguf_builder_u32(struct gguf_builder *builder, const char *key, uint32_t value);
void gguf_builder_f32(struct gguf_builder *builder, const char *key, float value);
void gguf_builder_bool(struct gguf_builder *builder, const char *key, uint8_t value);
void gguf_builder_string(struct gguf_builder *builder, const char *key, const char *value);

/* COUNT elements of a type other than string, or their claimed number if BYTES say otherwise. */
void gguf_builder_array(struct gguf_builder *builder, const char *key, uint32_t element_type,
                        uint64_t count, const void *values, size_t bytes);
void gguf_builder_strings(struct gguf_builder *builder, const char *key, const char *const *values,
                          size_t count);

/* The part of a key in front of its value, with a name that may hold anything. */
void gguf_builder_key(struct gguf_builder *builder, const char *name, size_t name_len,
                      uint32_t type);

struct gguf_builder_tensor {
    const char *name;
    size_t name_len; /* 0: up to the NUL */
    uint32_t type_number;
    uint32_t dim_count;
    uint64_t dims[8];
    size_t bytes;   /* appended to the data, counting up from 0, and padded to the alignment */
    int has_offset; /* take `offset` in place of where the data is appended */
    uint64_t offset;
};

void gguf_builder_tensor(struct gguf_builder *builder, const struct gguf_builder_tensor *tensor);

/* The whole file in a block of exactly *bytes, to be freed by the caller. */
uint8_t *gguf_builder_file(const struct gguf_builder *builder, size_t *bytes);

/* Keys of every value type and every type of array, and tensors of five types. */
void gguf_builder_sample(struct gguf_builder *builder);

#endif
