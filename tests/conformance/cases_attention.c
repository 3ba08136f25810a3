/*
 * Attention and KV writes: every pool type and block size, sequences at various positions, head
 * sizes that fit no vector. Pool bytes that no sequence has written are NaN, so that a token that
 * is multiplied by 0 instead of being left out shows.
 */
#include "tests/conformance/conformance.h"

#include <stdio.h>

struct attention_shape {
    struct conformance_batch_shape batch;
    enum dtype type;
    int kv_heads;
    int group; /* query heads per kv head */
    int key_size;
    int value_size;
    size_t padding;
};

/* A pool of two layers' worth of bytes, of which the view takes a middle part. */
static struct op_kv_view make_view(struct conformance_side *side,
                                   const struct attention_shape *shape, int block_count,
                                   uint8_t **image) {
    size_t value_bytes = dtype_block_bytes(shape->type);
    size_t run = (size_t)shape->kv_heads * (size_t)shape->batch.block_size;
    size_t key_bytes = run * (size_t)shape->key_size * value_bytes;
    size_t all_bytes = key_bytes + run * (size_t)shape->value_size * value_bytes;
    size_t gap = 3 * value_bytes;
    struct op_kv_view view = {
        .block_bytes = all_bytes + 4 * gap,
        .key_offset_bytes = gap,
        .value_offset_bytes = key_bytes + 2 * gap,
        .block_size = shape->batch.block_size,
        .kv_heads = shape->kv_heads,
        .key_size = shape->key_size,
        .value_size = shape->value_size,
        .type = shape->type,
    };
    struct device_ptr pool = conformance_nan_buffer(
        side, "pool", shape->type, (size_t)(block_count + 2) * view.block_bytes, image);
    view.pool = pool.buffer;
    /* The buffer's guard in front belongs to block 0; offsets count from the buffer's start. */
    *image -= pool.offset_bytes;
    return view;
}

/* Writes K and V of one token of block BLOCK. */
static void fill_token(struct conformance_side *side, const struct op_kv_view *view, uint8_t *image,
                       int block, size_t idx) {
    uint8_t *keys = image + (size_t)block * view->block_bytes + view->key_offset_bytes;
    uint8_t *values = image + (size_t)block * view->block_bytes + view->value_offset_bytes;
    size_t block_size = (size_t)view->block_size;
    for (size_t head = 0; head < (size_t)view->kv_heads; head++) {
        for (size_t d = 0; d < (size_t)view->key_size; d++) {
            conformance_store(view->type, keys,
                              (head * (size_t)view->key_size + d) * block_size + idx,
                              conformance_value(side));
        }
        for (size_t d = 0; d < (size_t)view->value_size; d++) {
            conformance_store(view->type, values,
                              (head * block_size + idx) * (size_t)view->value_size + d,
                              conformance_value(side));
        }
    }
}

static void build_attention(struct conformance_side *side, const void *opaque,
                            struct command *out) {
    const struct attention_shape *shape = opaque;
    struct conformance_batch batch;
    uint8_t *image;
    conformance_make_batch(side, &shape->batch, &batch);
    struct op_kv_view view = make_view(side, shape, batch.block_count, &image);
    for (int i = 0; i < batch.layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &batch.layout->sequences[i];
        for (int token = 0; token < sequence->position + sequence->rows; token++) {
            fill_token(side, &view, image, sequence->block_table[token / view.block_size],
                       (size_t)(token % view.block_size));
        }
    }
    int heads = shape->kv_heads * shape->group;
    size_t query_stride = (size_t)(heads * shape->key_size) + shape->padding;
    size_t out_stride = (size_t)(heads * shape->value_size) + 2 * shape->padding;
    out->kind = COMMAND_ATTENTION;
    out->attention = (struct op_attention){
        .batch = batch.batch,
        .kv = view,
        .heads = heads,
        .scale = 0.125f,
        .query =
            conformance_input(side, "query", batch.rows, heads * shape->key_size, query_stride),
        .query_stride = query_stride,
        .out = conformance_output(side, "out", batch.rows, heads * shape->value_size, out_stride),
        .out_stride = out_stride,
    };
}

static void build_kv_write(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct attention_shape *shape = opaque;
    struct conformance_batch batch;
    uint8_t *image;
    conformance_make_batch(side, &shape->batch, &batch);
    int key_columns = shape->kv_heads * shape->key_size;
    int value_columns = shape->kv_heads * shape->value_size;
    size_t key_stride = (size_t)key_columns + shape->padding;
    size_t value_stride = (size_t)value_columns + 3 * shape->padding;
    out->kind = COMMAND_KV_WRITE;
    out->kv_write = (struct op_kv_write){
        .batch = batch.batch,
        .kv = make_view(side, shape, batch.block_count, &image),
        .key = conformance_input(side, "key", batch.rows, key_columns, key_stride),
        .key_stride = key_stride,
        .value = conformance_input(side, "value", batch.rows, value_columns, value_stride),
        .value_stride = value_stride,
    };
}

static void run(struct conformance *suite, const struct attention_shape *shape,
                const char *pattern) {
    char text[200];
    snprintf(text, sizeof text,
             "%s; %s, blocks of %d, %d x %d heads, key %d, value %d, padding %zu", pattern,
             dtype_name(shape->type), shape->batch.block_size, shape->kv_heads, shape->group,
             shape->key_size, shape->value_size, shape->padding);
    int fill = conformance_choose(suite, 0, CONFORMANCE_FILL_COUNT - 1);
    for (int i = 0; i < 2; i++, fill++) {
        struct conformance_case test = {
            .build = build_attention,
            .shape = shape,
            .fill = (enum conformance_fill)(fill % CONFORMANCE_FILL_COUNT),
            .text = text,
        };
        conformance_run(suite, &test);
        test.build = build_kv_write;
        conformance_run(suite, &test);
    }
}

void conformance_cases_attention(struct conformance *suite) {
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const int block_sizes[] = {8, 16, 32, 64, 128, 256};
    static const int sizes[] = {1, 7, 16, 24, 32, 33, 64, 80, 128};
    const char *pattern;
    struct attention_shape shape = {.batch = {.vocabulary = 1}};
    for (int i = 0; conformance_batch_pattern(i, &shape.batch, &pattern); i++) {
        for (size_t j = 0; j < ARRAY_LEN(types) * ARRAY_LEN(block_sizes); j++) {
            int size_idx = conformance_choose(suite, 0, (int)ARRAY_LEN(sizes) - 1);
            int value_idx = conformance_choose(suite, 0, (int)ARRAY_LEN(sizes) - 1);
            shape.type = types[j % ARRAY_LEN(types)];
            shape.batch.block_size = block_sizes[j / ARRAY_LEN(types)];
            shape.kv_heads = conformance_choose(suite, 1, 3);
            shape.group = conformance_choose(suite, 1, 4);
            shape.key_size = sizes[size_idx];
            shape.value_size = j % 2 == 0 ? sizes[size_idx] : sizes[value_idx];
            shape.padding = (size_t)conformance_choose(suite, 0, 1) * 5;
            run(suite, &shape, pattern);
        }
    }
}
