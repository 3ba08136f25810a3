#include "gpu/host/host_pool_copy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu/op.h"

enum { KV_HEADS = 2, KEY_SIZE = 3, VALUE_SIZE = 5, LAYERS = 2, BLOCKS = 3, GAP_BYTES = 64 };

struct bench {
    struct device *device;
    struct device_stream *stream;
    struct device_buffer *pool;
    uint8_t *before;
    uint8_t *after;
    size_t bytes;
};

static struct bench setup(size_t bytes) {
    struct bench bench = {.bytes = bytes, .before = malloc(bytes), .after = malloc(bytes)};
    const struct device_config config = {.isa = "portable", .threads = 1};
    assert_true(bench.before != NULL && bench.after != NULL);
    assert_int_equal(device_open(&config, &bench.device), ERR_OK);
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COPY, &bench.stream), ERR_OK);
    assert_int_equal(device_buffer_create(bench.device, bytes, &bench.pool), ERR_OK);
    for (size_t i = 0; i < bytes; i++) {
        bench.before[i] = (uint8_t)(1 + i * 7 % 255); /* never 0 */
    }
    return bench;
}

static void teardown(struct bench *bench) {
    device_stream_destroy(bench->stream);
    device_buffer_destroy(bench->pool);
    device_close(bench->device);
    free(bench->before);
    free(bench->after);
}

static void fill_pool(struct bench *bench) {
    assert_int_equal(
        device_copy_in(bench->stream, device_ptr_at(bench->pool, 0), bench->before, bench->bytes),
        ERR_OK);
}

static void read_pool(struct bench *bench) {
    assert_int_equal(
        device_copy_out(bench->stream, bench->after, device_ptr_at(bench->pool, 0), bench->bytes),
        ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench->stream), ERR_OK);
}

/* Layers of K and V with a gap after each layer; returns the bytes of a block. */
static size_t lay_out(enum dtype type, int block_size, struct op_kv_segment *segments) {
    size_t offset = 0;
    for (int layer = 0; layer < LAYERS; layer++) {
        segments[2 * layer] = (struct op_kv_segment){offset, KV_HEADS * KEY_SIZE, 1};
        offset += dtype_bytes(type, (size_t)(KV_HEADS * KEY_SIZE * block_size));
        segments[2 * layer + 1] = (struct op_kv_segment){offset, KV_HEADS, VALUE_SIZE};
        offset += dtype_bytes(type, (size_t)(KV_HEADS * VALUE_SIZE * block_size)) + GAP_BYTES;
    }
    return offset;
}

/* What a byte of block `to` must be, found from its place alone; segment NULL: between segments. */
static uint8_t expected_byte(const struct bench *bench, const struct op_kv_copy_tail *copy,
                             const struct op_kv_segment *segment, size_t offset) {
    const uint8_t *from = bench->before + (size_t)copy->from * copy->block_bytes;
    const uint8_t *to = bench->before + (size_t)copy->to * copy->block_bytes;
    if (segment == NULL) {
        return to[offset];
    }
    size_t value = (offset - segment->offset_bytes) / dtype_bytes(copy->type, 1);
    size_t token = value / (size_t)segment->token_values % (size_t)copy->block_size;
    return token < (size_t)copy->tokens ? from[offset] : 0;
}

static const struct op_kv_segment *segment_at(const struct op_kv_copy_tail *copy, size_t offset) {
    for (int i = 0; i < copy->segment_count; i++) {
        const struct op_kv_segment *segment = &copy->segments[i];
        size_t values =
            (size_t)segment->outer * (size_t)segment->token_values * (size_t)copy->block_size;
        if (offset >= segment->offset_bytes &&
            offset < segment->offset_bytes + dtype_bytes(copy->type, values)) {
            return segment;
        }
    }
    return NULL;
}

static void check_tail(struct bench *bench, const struct op_kv_copy_tail *copy) {
    fill_pool(bench);
    assert_int_equal(op_kv_copy_tail(bench->stream, copy), ERR_OK);
    read_pool(bench);
    size_t wrong = 0;
    for (size_t i = 0; i < bench->bytes; i++) {
        uint8_t expected = bench->before[i];
        if (i / copy->block_bytes == (size_t)copy->to) {
            size_t offset = i % copy->block_bytes;
            expected = expected_byte(bench, copy, segment_at(copy, offset), offset);
        }
        wrong += bench->after[i] != expected;
    }
    assert_int_equal(wrong, 0);
}

static void test_host_pool_copy_keeps_the_first_tokens_and_zeroes_the_rest(void **state) {
    (void)state;
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    static const int block_sizes[] = {8, 32};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        for (size_t b = 0; b < ARRAY_LEN(block_sizes); b++) {
            struct op_kv_segment segments[2 * LAYERS];
            size_t block_bytes = lay_out(types[t], block_sizes[b], segments);
            struct bench bench = setup(BLOCKS * block_bytes);
            struct op_kv_copy_tail copy = {.pool = bench.pool,
                                           .block_bytes = block_bytes,
                                           .block_size = block_sizes[b],
                                           .type = types[t],
                                           .segments = segments,
                                           .segment_count = 2 * LAYERS,
                                           .from = 2};
            for (copy.tokens = 0; copy.tokens <= block_sizes[b]; copy.tokens++) {
                copy.to = 1;
                check_tail(&bench, &copy);
                copy.to = copy.from; /* in place */
                check_tail(&bench, &copy);
            }
            teardown(&bench);
        }
    }
}

static void test_host_pool_copy_moves_whole_states(void **state) {
    (void)state;
    enum { SLOT_BYTES = 1000, SLOTS = 4 };
    struct bench bench = setup(SLOT_BYTES * SLOTS);
    struct op_state_copy copy = {.pool = bench.pool, .slot_bytes = SLOT_BYTES, .from = 3, .to = 1};
    struct op_state_copy still = {.pool = bench.pool, .slot_bytes = SLOT_BYTES, .from = 0, .to = 0};
    struct op_state_clear clear = {.pool = bench.pool, .slot_bytes = SLOT_BYTES, .slot = 2};
    static const uint8_t zeros[SLOT_BYTES];
    fill_pool(&bench);
    assert_int_equal(op_state_copy(bench.stream, &copy), ERR_OK);
    assert_int_equal(op_state_copy(bench.stream, &still), ERR_OK);
    assert_int_equal(op_state_clear(bench.stream, &clear), ERR_OK);
    read_pool(&bench);
    assert_memory_equal(bench.after, bench.before, SLOT_BYTES);
    assert_memory_equal(bench.after + SLOT_BYTES, bench.before + 3 * SLOT_BYTES, SLOT_BYTES);
    assert_memory_equal(bench.after + 2 * SLOT_BYTES, zeros, SLOT_BYTES);
    assert_memory_equal(bench.after + 3 * SLOT_BYTES, bench.before + 3 * SLOT_BYTES, SLOT_BYTES);
    teardown(&bench);
}

static void test_host_pool_copy_takes_three_kinds(void **state) {
    (void)state;
    int taken = 0;
    for (int kind = 0; kind < COMMAND_KIND_COUNT; kind++) {
        taken += host_pool_copy_takes((enum command_kind)kind);
    }
    assert_int_equal(taken, 3);
    assert_true(host_pool_copy_takes(COMMAND_KV_COPY_TAIL));
    assert_true(host_pool_copy_takes(COMMAND_STATE_COPY));
    assert_true(host_pool_copy_takes(COMMAND_STATE_CLEAR));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_pool_copy_keeps_the_first_tokens_and_zeroes_the_rest),
        cmocka_unit_test(test_host_pool_copy_moves_whole_states),
        cmocka_unit_test(test_host_pool_copy_takes_three_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
