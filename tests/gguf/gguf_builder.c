#include "tests/gguf/gguf_builder.h"

#include <stdlib.h>
#include <string.h>

enum { BUILDER_BYTES_MAX = 64 << 20 };

static void append(struct buf *buf, const void *bytes, size_t len) {
    if (len > 0 && buf_append(buf, bytes, len) != ERR_OK) {
        abort();
    }
}

static void append_u32(struct buf *buf, uint32_t value) {
    append(buf, &value, sizeof value);
}

static void append_u64(struct buf *buf, uint64_t value) {
    append(buf, &value, sizeof value);
}

static void append_string(struct buf *buf, const char *text, size_t len) {
    append_u64(buf, len);
    append(buf, text, len);
}

static void pad(struct buf *buf, size_t alignment) {
    static const uint8_t zero;
    while (buf->len % alignment != 0) {
        append(buf, &zero, 1);
    }
}

void gguf_builder_init(struct gguf_builder *builder) {
    *builder = (struct gguf_builder){.version = 3, .alignment = 32};
    buf_init(&builder->keys, BUILDER_BYTES_MAX);
    buf_init(&builder->tensors, BUILDER_BYTES_MAX);
    buf_init(&builder->data, BUILDER_BYTES_MAX);
}

void gguf_builder_done(struct gguf_builder *builder) {
    buf_done(&builder->keys);
    buf_done(&builder->tensors);
    buf_done(&builder->data);
}

void gguf_builder_key(struct gguf_builder *builder, const char *name, size_t name_len,
                      uint32_t type) {
    append_string(&builder->keys, name, name_len);
    append_u32(&builder->keys, type);
    builder->key_count++;
}

void gguf_builder_value(struct gguf_builder *builder, const char *key, uint32_t type,
                        const void *value, size_t bytes) {
    gguf_builder_key(builder, key, strlen(key), type);
    append(&builder->keys, value, bytes);
}

void gguf_builder_u32(struct gguf_builder *builder, const char *key, uint32_t value) {
    gguf_builder_value(builder, key, GGUF_TYPE_U32, &value, sizeof value);
}

void gguf_builder_f32(struct gguf_builder *builder, const char *key, float value) {
    gguf_builder_value(builder, key, GGUF_TYPE_F32, &value, sizeof value);
}

void gguf_builder_bool(struct gguf_builder *builder, const char *key, uint8_t value) {
    gguf_builder_value(builder, key, GGUF_TYPE_BOOL, &value, sizeof value);
}

void gguf_builder_string(struct gguf_builder *builder, const char *key, const char *value) {
    gguf_builder_key(builder, key, strlen(key), GGUF_TYPE_STRING);
    append_string(&builder->keys, value, strlen(value));
}

void gguf_builder_array(struct gguf_builder *builder, const char *key, uint32_t element_type,
                        uint64_t count, const void *values, size_t bytes) {
    gguf_builder_key(builder, key, strlen(key), GGUF_TYPE_ARRAY);
    append_u32(&builder->keys, element_type);
    append_u64(&builder->keys, count);
    append(&builder->keys, values, bytes);
}

void gguf_builder_strings(struct gguf_builder *builder, const char *key, const char *const *values,
                          size_t count) {
    gguf_builder_array(builder, key, GGUF_TYPE_STRING, count, "", 0);
    for (size_t i = 0; i < count; i++) {
        append_string(&builder->keys, values[i], strlen(values[i]));
    }
}

void gguf_builder_tensor(struct gguf_builder *builder, const struct gguf_builder_tensor *tensor) {
    struct buf *record = &builder->tensors;
    size_t name_len = tensor->name_len != 0 ? tensor->name_len : strlen(tensor->name);
    append_string(record, tensor->name, name_len);
    append_u32(record, tensor->dim_count);
    for (uint32_t i = 0; i < tensor->dim_count && i < ARRAY_LEN(tensor->dims); i++) {
        append_u64(record, tensor->dims[i]);
    }
    append_u32(record, tensor->type_number);
    append_u64(record, tensor->has_offset ? tensor->offset : builder->data.len);
    builder->tensor_count++;
    for (size_t i = 0; i < tensor->bytes; i++) {
        uint8_t byte = (uint8_t)i;
        append(&builder->data, &byte, 1);
    }
    pad(&builder->data, builder->alignment);
}

uint8_t *gguf_builder_file(const struct gguf_builder *builder, size_t *bytes) {
    struct buf file CLEANUP(buf_done);
    buf_init(&file, 4 * (size_t)BUILDER_BYTES_MAX);
    append(&file, "GGUF", 4);
    append_u32(&file, builder->version);
    append_u64(&file, builder->tensor_count);
    append_u64(&file, builder->key_count);
    append(&file, builder->keys.data, builder->keys.len);
    append(&file, builder->tensors.data, builder->tensors.len);
    if (builder->data.len > 0) {
        pad(&file, builder->alignment);
        append(&file, builder->data.data, builder->data.len);
    }
    uint8_t *exact = malloc(file.len);
    if (exact == NULL) {
        abort();
    }
    memcpy(exact, file.data, file.len);
    *bytes = file.len;
    return exact;
}

static void add_scalars(struct gguf_builder *builder) {
    gguf_builder_string(builder, "general.architecture", "granitehybrid");
    gguf_builder_string(builder, "general.empty", "");
    gguf_builder_value(builder, "scalar.u8", GGUF_TYPE_U8, &(uint8_t){200}, 1);
    gguf_builder_value(builder, "scalar.i8", GGUF_TYPE_I8, &(int8_t){-100}, 1);
    gguf_builder_value(builder, "scalar.u16", GGUF_TYPE_U16, &(uint16_t){60000}, 2);
    gguf_builder_value(builder, "scalar.i16", GGUF_TYPE_I16, &(int16_t){-30000}, 2);
    gguf_builder_u32(builder, "scalar.u32", 4000000000);
    gguf_builder_value(builder, "scalar.i32", GGUF_TYPE_I32, &(int32_t){2000000000}, 4);
    gguf_builder_f32(builder, "scalar.f32", 0.25F);
    gguf_builder_bool(builder, "scalar.bool", 1);
    gguf_builder_value(builder, "scalar.u64", GGUF_TYPE_U64, &(uint64_t){1 << 20}, 8);
    gguf_builder_value(builder, "scalar.i64", GGUF_TYPE_I64, &(int64_t){7}, 8);
    gguf_builder_value(builder, "scalar.f64", GGUF_TYPE_F64, &(double){-1.5}, 8);
    gguf_builder_value(builder, "huge.u64", GGUF_TYPE_U64, &(uint64_t){UINT64_MAX}, 8);
    gguf_builder_value(builder, "huge.f64", GGUF_TYPE_F64, &(double){1e300}, 8);
}

static void add_arrays(struct gguf_builder *builder) {
    static const char *const words[] = {"zero", "", "two", "drei"};
    gguf_builder_strings(builder, "array.string", words, ARRAY_LEN(words));
    gguf_builder_array(builder, "array.u8", GGUF_TYPE_U8, 2, (uint8_t[]){1, 255}, 2);
    gguf_builder_array(builder, "array.i8", GGUF_TYPE_I8, 2, (int8_t[]){1, -1}, 2);
    gguf_builder_array(builder, "array.u16", GGUF_TYPE_U16, 2, (uint16_t[]){1, 65535}, 4);
    gguf_builder_array(builder, "array.i16", GGUF_TYPE_I16, 2, (int16_t[]){1, -2}, 4);
    gguf_builder_array(builder, "array.u32", GGUF_TYPE_U32, 2, (uint32_t[]){1, UINT32_MAX}, 8);
    gguf_builder_array(builder, "array.i32", GGUF_TYPE_I32, 3, (int32_t[]){1, -3, 9}, 12);
    gguf_builder_array(builder, "array.f32", GGUF_TYPE_F32, 2, (float[]){0.5F, -2.0F}, 8);
    gguf_builder_array(builder, "array.bool", GGUF_TYPE_BOOL, 3, (uint8_t[]){0, 1, 0}, 3);
    gguf_builder_array(builder, "array.u64", GGUF_TYPE_U64, 2, (uint64_t[]){1, UINT64_MAX}, 16);
    gguf_builder_array(builder, "array.i64", GGUF_TYPE_I64, 2, (int64_t[]){INT64_MAX, INT64_MIN},
                       16);
    gguf_builder_array(builder, "array.f64", GGUF_TYPE_F64, 2, (double[]){0.75, 1e300}, 16);
    gguf_builder_array(builder, "array.empty", GGUF_TYPE_STRING, 0, "", 0);
}

void gguf_builder_sample(struct gguf_builder *builder) {
    static const struct gguf_builder_tensor tensors[] = {
        {.name = "token_embd.weight",
         .type_number = 8,
         .dim_count = 2,
         .dims = {64, 3},
         .bytes = 204},
        {.name = "blk.0.f32", .type_number = 0, .dim_count = 1, .dims = {5}, .bytes = 20},
        {.name = "blk.0.f16", .type_number = 1, .dim_count = 3, .dims = {2, 3, 2}, .bytes = 24},
        {.name = "blk.0.bf16",
         .type_number = 30,
         .dim_count = 4,
         .dims = {2, 1, 2, 2},
         .bytes = 16},
        {.name = "blk.0.q4_k", .type_number = 12, .dim_count = 2, .dims = {256, 2}, .bytes = 288},
    };
    add_scalars(builder);
    add_arrays(builder);
    for (size_t i = 0; i < ARRAY_LEN(tensors); i++) {
        gguf_builder_tensor(builder, &tensors[i]);
    }
}
