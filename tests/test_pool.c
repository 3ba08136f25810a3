#include "store/pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCKS = 4, SLOTS = 3, BLOCK_SIZE = 8 };

struct fixture {
    struct device *device;
    struct device_stream *stream;
    struct layout layout;
    struct pool *pool;
};

static int set_up(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    assert_int_equal(device_open(&(struct device_config){.threads = 1}, &fixture->device), ERR_OK);
    assert_int_equal(device_stream_create(fixture->device, DEVICE_STREAM_COMPUTE, &fixture->stream),
                     ERR_OK);
    assert_int_equal(layout_init(&fixture->layout, BLOCK_SIZE, DTYPE_F32), ERR_OK);
    assert_int_equal(layout_add_kv(&fixture->layout, 0, 2, 3, 5, NULL), ERR_OK);
    assert_int_equal(layout_add_state(&fixture->layout, 1, "ssm", (int[]){2, 3, 4}, NULL), ERR_OK);
    assert_int_equal(pool_create(&(struct pool_config){.device = fixture->device,
                                                       .layout = &fixture->layout,
                                                       .blocks = BLOCKS,
                                                       .slots = SLOTS},
                                 &fixture->pool),
                     ERR_OK);
    *state = fixture;
    return 0;
}

static int tear_down(void **state) {
    struct fixture *fixture = *state;
    device_stream_destroy(fixture->stream); /* waits: buffers are not to be in use any more */
    pool_destroy(fixture->pool);
    layout_done(&fixture->layout);
    device_close(fixture->device);
    free(fixture);
    return 0;
}

static void write_bytes(struct fixture *fixture, struct device_ptr to, const void *from,
                        size_t bytes) {
    assert_int_equal(device_copy_in(fixture->stream, to, from, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
}

static void read_bytes(struct fixture *fixture, void *to, struct device_ptr from, size_t bytes) {
    assert_int_equal(device_copy_out(fixture->stream, to, from, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
}

static void test_pool_hands_out_all_and_then_is_full(void **state) {
    struct fixture *fixture = *state;
    int32_t block = -7;
    for (int32_t i = 0; i < BLOCKS; i++) {
        assert_int_equal(pool_block_take(fixture->pool, &block), ERR_OK);
        assert_int_equal(block, i); /* low ones first */
        assert_int_equal(pool_block_references(fixture->pool, i), 1);
    }
    block = -7;
    assert_int_equal(pool_block_take(fixture->pool, &block), ERR_FULL);
    assert_int_equal(block, -7);
    assert_non_null(strstr(err_message(), "4 KV blocks"));
    struct pool_usage usage;
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.blocks, BLOCKS);
    assert_int_equal(usage.blocks_free, 0);
    assert_int_equal(usage.slots, SLOTS);
    assert_int_equal(usage.slots_free, SLOTS);
    pool_block_release(fixture->pool, 2);
    assert_int_equal(pool_block_take(fixture->pool, &block), ERR_OK);
    assert_int_equal(block, 2);
    for (int32_t i = 0; i < BLOCKS; i++) {
        pool_block_release(fixture->pool, i);
    }
}

static void test_pool_frees_at_the_last_release(void **state) {
    struct fixture *fixture = *state;
    int32_t slot = -1, other = -1;
    struct pool_usage usage;
    assert_int_equal(pool_slot_take(fixture->pool, &slot), ERR_OK);
    pool_slot_share(fixture->pool, slot);
    pool_slot_share(fixture->pool, slot);
    pool_slot_release(fixture->pool, slot);
    pool_slot_release(fixture->pool, slot);
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.slots_free, SLOTS - 1);
    assert_int_equal(pool_slot_take(fixture->pool, &other), ERR_OK);
    assert_int_not_equal(other, slot);
    pool_slot_release(fixture->pool, other);
    pool_slot_release(fixture->pool, slot);
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.slots_free, SLOTS);
}

static void test_pool_addresses_do_not_overlap(void **state) {
    struct fixture *fixture = *state;
    for (int32_t i = 1; i < BLOCKS; i++) {
        assert_int_equal(pool_block_ptr(fixture->pool, i).offset_bytes,
                         (size_t)i * fixture->layout.block_bytes);
    }
    assert_int_equal(pool_slot_ptr(fixture->pool, 2).offset_bytes, 2 * fixture->layout.slot_bytes);
    assert_ptr_not_equal(pool_slot_ptr(fixture->pool, 0).buffer,
                         pool_block_ptr(fixture->pool, 0).buffer);
    struct op_kv_view kv = pool_kv_view(fixture->pool, 0);
    assert_int_equal(kv.block_bytes, fixture->layout.block_bytes);
    assert_int_equal(kv.value_offset_bytes, fixture->layout.kv[0].value_offset_bytes);
    assert_int_equal(kv.block_size, BLOCK_SIZE);
    struct op_state_view view = pool_state_view(fixture->pool, 0);
    assert_int_equal(view.slot_bytes, fixture->layout.slot_bytes);
    assert_int_equal(view.offset_bytes, 0);
}

/* What a tail's first tokens are, in K and in V, and zeros behind them, whatever lay there. */
static void test_pool_copies_a_tail_and_clears_behind_it(void **state) {
    struct fixture *fixture = *state;
    enum { KEY_ROWS = 2 * 3, VALUE_HEADS = 2, VALUE_SIZE = 5 };
    size_t bytes = fixture->layout.block_bytes;
    float *from = malloc(bytes), *to = malloc(bytes);
    assert_true(from != NULL && to != NULL);
    for (int tokens = 1; tokens < BLOCK_SIZE; tokens++) {
        int32_t blocks[2];
        for (int i = 0; i < 2; i++) {
            assert_int_equal(pool_block_take(fixture->pool, &blocks[i]), ERR_OK);
        }
        for (size_t i = 0; i < bytes / sizeof *from; i++) {
            from[i] = (float)i + 1;
            to[i] = -1.0f;
        }
        write_bytes(fixture, pool_block_ptr(fixture->pool, blocks[0]), from, bytes);
        write_bytes(fixture, pool_block_ptr(fixture->pool, blocks[1]), to, bytes);
        assert_int_equal(
            pool_copy_tail(fixture->pool, fixture->stream, blocks[0], blocks[1], tokens), ERR_OK);
        read_bytes(fixture, to, pool_block_ptr(fixture->pool, blocks[1]), bytes);
        for (int row = 0; row < KEY_ROWS; row++) {
            for (int token = 0; token < BLOCK_SIZE; token++) {
                size_t at = (size_t)(row * BLOCK_SIZE + token);
                assert_true(to[at] == (token < tokens ? from[at] : 0.0f));
            }
        }
        size_t values = fixture->layout.kv[0].value_offset_bytes / sizeof *to;
        for (int row = 0; row < VALUE_HEADS * BLOCK_SIZE; row++) {
            for (int i = 0; i < VALUE_SIZE; i++) {
                size_t at = values + (size_t)(row * VALUE_SIZE + i);
                assert_true(to[at] == (row % BLOCK_SIZE < tokens ? from[at] : 0.0f));
            }
        }
        pool_block_release(fixture->pool, blocks[1]);
        pool_block_release(fixture->pool, blocks[0]);
    }
    free(from);
    free(to);
}

static void test_pool_copies_and_clears_states(void **state) {
    struct fixture *fixture = *state;
    size_t bytes = fixture->layout.slot_bytes;
    uint8_t *pattern = malloc(bytes), *got = malloc(bytes), *zeros = calloc(1, bytes);
    assert_true(pattern != NULL && got != NULL && zeros != NULL);
    for (size_t i = 0; i < bytes; i++) {
        pattern[i] = (uint8_t)(i * 7 + 1);
    }
    for (int32_t slot = 0; slot < SLOTS; slot++) {
        write_bytes(fixture, pool_slot_ptr(fixture->pool, slot), pattern, bytes);
    }
    assert_int_equal(pool_clear_state(fixture->pool, fixture->stream, 1), ERR_OK);
    read_bytes(fixture, got, pool_slot_ptr(fixture->pool, 1), bytes);
    assert_memory_equal(got, zeros, bytes);
    for (int32_t slot = 0; slot < SLOTS; slot += 2) { /* the neighbours are as they were */
        read_bytes(fixture, got, pool_slot_ptr(fixture->pool, slot), bytes);
        assert_memory_equal(got, pattern, bytes);
    }
    assert_int_equal(pool_copy_state(fixture->pool, fixture->stream, 2, 1), ERR_OK);
    read_bytes(fixture, got, pool_slot_ptr(fixture->pool, 1), bytes);
    assert_memory_equal(got, pattern, bytes);
    free(pattern);
    free(got);
    free(zeros);
}

static void *take_and_give(void *context) {
    struct pool *pool = context;
    for (int i = 0; i < 2000; i++) {
        int32_t block;
        if (pool_block_take(pool, &block) == ERR_OK) {
            pool_block_share(pool, block);
            pool_block_release(pool, block);
            pool_block_release(pool, block);
        }
    }
    return NULL;
}

static void test_pool_serves_several_threads(void **state) {
    struct fixture *fixture = *state;
    pthread_t threads[3];
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, fixture->pool), 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    struct pool_usage usage;
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.blocks_free, BLOCKS);
    int taken[BLOCKS] = {0};
    for (int i = 0; i < BLOCKS; i++) {
        int32_t block;
        assert_int_equal(pool_block_take(fixture->pool, &block), ERR_OK);
        assert_int_equal(taken[block]++, 0); /* each once */
    }
    for (int32_t i = 0; i < BLOCKS; i++) {
        pool_block_release(fixture->pool, i);
    }
}

static void test_pool_refuses_what_the_device_has_no_room_for(void **state) {
    struct fixture *fixture = *state;
    struct device *small = NULL;
    struct pool *pool = NULL;
    assert_int_equal(
        device_open(&(struct device_config){.threads = 1, .memory_max_bytes = 4096}, &small),
        ERR_OK);
    struct pool_config config = {
        .device = small, .layout = &fixture->layout, .blocks = 1000, .slots = 1};
    assert_int_equal(pool_create(&config, &pool), ERR_NOMEM);
    assert_non_null(strstr(err_message(), "1000 KV blocks"));
    config.blocks = 1;
    config.slots = 1000;
    assert_int_equal(pool_create(&config, &pool), ERR_NOMEM);
    assert_non_null(strstr(err_message(), "1000 state slots"));
    config.slots = 0;
    assert_int_equal(pool_create(&config, &pool), ERR_INVALID);
    assert_null(pool);
    struct device_info info;
    device_get_info(small, &info);
    assert_int_equal(info.memory_used_bytes, 0);
    device_close(small);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_pool_hands_out_all_and_then_is_full, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_pool_frees_at_the_last_release, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pool_addresses_do_not_overlap, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pool_copies_a_tail_and_clears_behind_it, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_pool_copies_and_clears_states, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pool_serves_several_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pool_refuses_what_the_device_has_no_room_for, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
