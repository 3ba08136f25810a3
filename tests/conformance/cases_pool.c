/* Pool copies, on compute and on copy streams. */
#include "tests/conformance/conformance.h"

#include <stdio.h>

enum { BLOCKS = 5, SLOTS = 4, SEGMENTS_MAX = 6 };

struct pool_shape {
    enum dtype type;
    int block_size;
    int tokens;
    int from;
    int to;
    size_t slot_bytes;
    int segment_count;
    struct op_kv_segment segments[SEGMENTS_MAX];
    size_t block_bytes;
};

static void build_kv_copy_tail(struct conformance_side *side, const void *opaque,
                               struct command *out) {
    const struct pool_shape *shape = opaque;
    struct device_ptr pool =
        conformance_buffer(side, "pool", shape->type, BLOCKS * shape->block_bytes, NULL);
    out->kind = COMMAND_KV_COPY_TAIL;
    out->kv_copy_tail = (struct op_kv_copy_tail){
        .pool = pool.buffer,
        .block_bytes = shape->block_bytes,
        .block_size = shape->block_size,
        .type = shape->type,
        .segments = shape->segments,
        .segment_count = shape->segment_count,
        .from = shape->from,
        .to = shape->to,
        .tokens = shape->tokens,
    };
}

static void build_state_copy(struct conformance_side *side, const void *opaque,
                             struct command *out) {
    const struct pool_shape *shape = opaque;
    struct device_ptr pool =
        conformance_buffer(side, "pool", DTYPE_F32, SLOTS * shape->slot_bytes, NULL);
    out->kind = COMMAND_STATE_COPY;
    out->state_copy = (struct op_state_copy){
        .pool = pool.buffer, .slot_bytes = shape->slot_bytes, .from = shape->from, .to = shape->to};
}

static void build_state_clear(struct conformance_side *side, const void *opaque,
                              struct command *out) {
    const struct pool_shape *shape = opaque;
    struct device_ptr pool =
        conformance_buffer(side, "pool", DTYPE_F32, SLOTS * shape->slot_bytes, NULL);
    out->kind = COMMAND_STATE_CLEAR;
    out->state_clear = (struct op_state_clear){
        .pool = pool.buffer, .slot_bytes = shape->slot_bytes, .slot = shape->to};
}

static void run(struct conformance *suite, conformance_build_fn *build,
                const struct pool_shape *shape, const char *text) {
    for (int is_on_copy_stream = 0; is_on_copy_stream <= 1; is_on_copy_stream++) {
        conformance_run(suite, &(struct conformance_case){.build = build,
                                                          .shape = shape,
                                                          .is_on_copy_stream = is_on_copy_stream,
                                                          .text = text});
    }
}

/* K and V of up to three layers, 64-byte aligned, as store/layout.h lays them out. */
static void make_segments(struct conformance *suite, struct pool_shape *shape) {
    shape->segment_count = 2 * conformance_choose(suite, 1, SEGMENTS_MAX / 2);
    shape->block_bytes = 0;
    for (int i = 0; i < shape->segment_count; i++) {
        struct op_kv_segment *segment = &shape->segments[i];
        int size = conformance_choose(suite, 1, 33);
        int heads = conformance_choose(suite, 1, 3);
        segment->offset_bytes = shape->block_bytes;
        segment->outer = i % 2 == 0 ? heads * size : heads;
        segment->token_values = i % 2 == 0 ? 1 : size;
        size_t values = (size_t)(heads * size * shape->block_size);
        shape->block_bytes += (dtype_bytes(shape->type, values) + 63) / 64 * 64;
    }
}

static void tail_cases(struct conformance *suite) {
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    char text[160];
    for (int block_size = 8; block_size <= 128; block_size *= 2) {
        for (int i = 0; i < 9; i++) {
            struct pool_shape shape = {.type = types[i % 3], .block_size = block_size};
            make_segments(suite, &shape);
            shape.tokens = i < 2 ? i * block_size : conformance_choose(suite, 1, block_size - 1);
            shape.from = conformance_choose(suite, 0, BLOCKS - 1);
            shape.to = i % 4 == 3 ? shape.from : conformance_choose(suite, 0, BLOCKS - 1);
            snprintf(text, sizeof text, "%s, %d of %d tokens, block %d to %d, %d segments",
                     dtype_name(shape.type), shape.tokens, block_size, shape.from, shape.to,
                     shape.segment_count);
            run(suite, build_kv_copy_tail, &shape, text);
        }
    }
}

void conformance_cases_pool(struct conformance *suite) {
    static const size_t slot_bytes[] = {4, 60, 64, 1000, 65536, 300004};
    char text[160];
    tail_cases(suite);
    for (size_t i = 0; i < ARRAY_LEN(slot_bytes); i++) {
        struct pool_shape shape = {.slot_bytes = slot_bytes[i],
                                   .from = conformance_choose(suite, 0, SLOTS - 1),
                                   .to = conformance_choose(suite, 0, SLOTS - 1)};
        snprintf(text, sizeof text, "slots of %zu, %d to %d", shape.slot_bytes, shape.from,
                 shape.to);
        run(suite, build_state_copy, &shape, text);
        run(suite, build_state_clear, &shape, text);
    }
}
