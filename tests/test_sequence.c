#include "store/sequence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { BLOCKS = 6, SLOTS = 4, BLOCK_SIZE = 8, CONTEXT = 40 };

struct fixture {
    struct device *device;
    struct device_stream *stream;
    struct layout layout;
    struct pool *pool;
    struct sequence sequence;
};

static int set_up(void **state) {
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    assert_int_equal(device_open(&(struct device_config){.threads = 1}, &fixture->device), ERR_OK);
    assert_int_equal(device_stream_create(fixture->device, DEVICE_STREAM_COMPUTE, &fixture->stream),
                     ERR_OK);
    assert_int_equal(layout_init(&fixture->layout, BLOCK_SIZE, DTYPE_F32), ERR_OK);
    assert_int_equal(layout_add_kv(&fixture->layout, 0, 1, 2, 2, NULL), ERR_OK);
    assert_int_equal(layout_add_state(&fixture->layout, 1, "ssm", (int[]){1, 4, 4}, NULL), ERR_OK);
    assert_int_equal(pool_create(&(struct pool_config){.device = fixture->device,
                                                       .layout = &fixture->layout,
                                                       .blocks = BLOCKS,
                                                       .slots = SLOTS},
                                 &fixture->pool),
                     ERR_OK);
    assert_int_equal(sequence_init(&fixture->sequence, fixture->pool, CONTEXT), ERR_OK);
    *state = fixture;
    return 0;
}

/* pool_destroy asserts that everything was given back. */
static int tear_down(void **state) {
    struct fixture *fixture = *state;
    device_stream_destroy(fixture->stream); /* waits: buffers are not to be in use any more */
    sequence_done(&fixture->sequence);
    pool_destroy(fixture->pool);
    layout_done(&fixture->layout);
    device_close(fixture->device);
    free(fixture);
    return 0;
}

static void expect_free(const struct fixture *fixture, int blocks, int slots) {
    struct pool_usage usage;
    pool_get_usage(fixture->pool, &usage);
    assert_int_equal(usage.blocks_free, blocks);
    assert_int_equal(usage.slots_free, slots);
}

static void fill(struct fixture *fixture, struct device_ptr to, uint8_t value, size_t bytes) {
    assert_int_equal(device_fill(fixture->stream, to, value, bytes), ERR_OK);
}

/* All BYTES at FROM are VALUE. */
static void expect_bytes(struct fixture *fixture, struct device_ptr from, uint8_t value,
                         size_t bytes) {
    uint8_t *got = malloc(bytes);
    assert_non_null(got);
    assert_int_equal(device_copy_out(fixture->stream, got, from, bytes), ERR_OK);
    assert_int_equal(device_stream_wait_idle(fixture->stream), ERR_OK);
    for (size_t i = 0; i < bytes; i++) {
        assert_int_equal(got[i], value);
    }
    free(got);
}

/* As if COUNT tokens had been run: every block filled with its number + 1, the state with MARK. */
static void advance(struct fixture *fixture, struct sequence *sequence, int count, uint8_t mark) {
    assert_int_equal(sequence_reserve(sequence, count), ERR_OK);
    sequence->length += count;
    for (int i = 0; i < sequence->block_count; i++) {
        fill(fixture, pool_block_ptr(fixture->pool, sequence->blocks[i]), (uint8_t)(i + 1),
             fixture->layout.block_bytes);
    }
    fill(fixture, pool_slot_ptr(fixture->pool, sequence->slot), mark, fixture->layout.slot_bytes);
}

static void test_sequence_starts_from_a_cleared_slot(void **state) {
    struct fixture *fixture = *state;
    for (int32_t slot = 0; slot < SLOTS; slot++) {
        fill(fixture, pool_slot_ptr(fixture->pool, slot), 0xee, fixture->layout.slot_bytes);
    }
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    assert_int_equal(fixture->sequence.length, 0);
    assert_int_equal(fixture->sequence.block_count, 0);
    expect_free(fixture, BLOCKS, SLOTS - 1);
    expect_bytes(fixture, pool_slot_ptr(fixture->pool, fixture->sequence.slot), 0,
                 fixture->layout.slot_bytes);
}

static void test_sequence_reserves_whole_blocks(void **state) {
    struct fixture *fixture = *state;
    struct sequence *sequence = &fixture->sequence;
    assert_int_equal(sequence_start(sequence, fixture->stream), ERR_OK);
    assert_int_equal(sequence_reserve(sequence, 1), ERR_OK);
    assert_int_equal(sequence->block_count, 1);
    assert_int_equal(sequence_reserve(sequence, BLOCK_SIZE), ERR_OK);
    assert_int_equal(sequence->block_count, 1);
    assert_int_equal(sequence_reserve(sequence, BLOCK_SIZE + 1), ERR_OK);
    assert_int_equal(sequence->block_count, 2);
    assert_int_equal(sequence_reserve(sequence, CONTEXT + 1), ERR_INVALID);
    assert_int_equal(sequence->block_count, 2);
    expect_free(fixture, BLOCKS - 2, SLOTS - 1);
}

static void test_sequence_reserve_takes_all_or_nothing(void **state) {
    struct fixture *fixture = *state;
    int32_t taken[BLOCKS - 2];
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        assert_int_equal(pool_block_take(fixture->pool, &taken[i]), ERR_OK);
    }
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    assert_int_equal(sequence_reserve(&fixture->sequence, 3 * BLOCK_SIZE), ERR_FULL);
    assert_int_equal(fixture->sequence.block_count, 0);
    expect_free(fixture, 2, SLOTS - 1);
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        pool_block_release(fixture->pool, taken[i]);
    }
}

static void test_sequence_start_without_a_slot_leaves_it_as_it_was(void **state) {
    struct fixture *fixture = *state;
    int32_t slots[SLOTS];
    for (int i = 0; i < SLOTS; i++) {
        assert_int_equal(pool_slot_take(fixture->pool, &slots[i]), ERR_OK);
    }
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_FULL);
    assert_int_equal(fixture->sequence.slot, -1);
    for (int i = 0; i < SLOTS; i++) {
        pool_slot_release(fixture->pool, slots[i]);
    }
}

/* A head of 19 tokens: two full blocks are shared, the tail of three and the state copied. */
static void test_sequence_commits_and_attaches(void **state) {
    struct fixture *fixture = *state;
    struct sequence *sequence = &fixture->sequence;
    struct sequence_head head;
    struct sequence other;
    assert_int_equal(sequence_start(sequence, fixture->stream), ERR_OK);
    advance(fixture, sequence, 19, 0x55);
    assert_int_equal(sequence_commit(sequence, fixture->stream, 19, -1, &head), ERR_OK);
    assert_int_equal(head.length, 19);
    assert_int_equal(head.block_count, 3);
    assert_int_equal(head.blocks[0], sequence->blocks[0]);
    assert_int_equal(head.blocks[1], sequence->blocks[1]);
    assert_int_not_equal(head.blocks[2], sequence->blocks[2]);
    assert_int_not_equal(head.slot, sequence->slot);
    assert_int_equal(pool_block_references(fixture->pool, head.blocks[0]), 2);
    expect_free(fixture, BLOCKS - 4, SLOTS - 2);

    /* The sequence goes on; the head keeps what it was. */
    fill(fixture, pool_block_ptr(fixture->pool, sequence->blocks[2]), 0x99,
         fixture->layout.block_bytes);
    fill(fixture, pool_slot_ptr(fixture->pool, sequence->slot), 0x99, fixture->layout.slot_bytes);

    assert_int_equal(sequence_init(&other, fixture->pool, CONTEXT), ERR_OK);
    assert_int_equal(sequence_attach(&other, fixture->stream, &head), ERR_OK);
    assert_int_equal(other.length, 19);
    assert_int_equal(other.block_count, 3);
    assert_int_equal(other.blocks[1], head.blocks[1]);
    assert_int_not_equal(other.blocks[2], head.blocks[2]);
    assert_int_equal(pool_block_references(fixture->pool, head.blocks[1]), 3);
    expect_bytes(fixture, pool_slot_ptr(fixture->pool, other.slot), 0x55,
                 fixture->layout.slot_bytes);
    /* The first key row of the tail: three tokens, and zeros behind them. */
    struct device_ptr tail = pool_block_ptr(fixture->pool, other.blocks[2]);
    expect_bytes(fixture, tail, 3, 3 * sizeof(float));
    expect_bytes(fixture, device_ptr_add(tail, 3 * sizeof(float)), 0, 5 * sizeof(float));
    sequence_head_release(&head);
    assert_int_equal(pool_block_references(fixture->pool, other.blocks[1]), 2);
    sequence_done(&other);
    expect_free(fixture, BLOCKS - 3, SLOTS - 1);
}

static void test_sequence_commit_at_a_block_border_has_no_tail(void **state) {
    struct fixture *fixture = *state;
    struct sequence_head head;
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    advance(fixture, &fixture->sequence, 16, 1);
    assert_int_equal(sequence_commit(&fixture->sequence, fixture->stream, 16, -1, &head), ERR_OK);
    assert_int_equal(head.block_count, 2);
    expect_free(fixture, BLOCKS - 2, SLOTS - 2);
    sequence_head_release(&head);
    sequence_head_release(&head); /* a released head is empty */
}

/* A head of an earlier length, with the state that a mark copied out there. */
static void test_sequence_commit_takes_a_marked_slot_over(void **state) {
    struct fixture *fixture = *state;
    struct sequence_head head;
    int32_t mark = -1;
    assert_int_equal(pool_slot_take(fixture->pool, &mark), ERR_OK);
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    advance(fixture, &fixture->sequence, 20, 1);
    assert_int_equal(sequence_commit(&fixture->sequence, fixture->stream, 10, mark, &head), ERR_OK);
    assert_int_equal(head.length, 10);
    assert_int_equal(head.slot, mark);
    assert_int_equal(head.block_count, 2);
    assert_int_not_equal(head.blocks[1], fixture->sequence.blocks[1]);
    sequence_head_release(&head);
    expect_free(fixture, BLOCKS - 3, SLOTS - 1);
}

static void test_sequence_commit_without_room_takes_nothing(void **state) {
    struct fixture *fixture = *state;
    struct sequence_head head = {.length = 77};
    int32_t mark = -1, rest[BLOCKS];
    int taken = 0;
    assert_int_equal(pool_slot_take(fixture->pool, &mark), ERR_OK);
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    advance(fixture, &fixture->sequence, 20, 1);
    while (pool_block_take(fixture->pool, &rest[taken]) == ERR_OK) {
        taken++;
    }
    assert_int_equal(sequence_commit(&fixture->sequence, fixture->stream, 20, mark, &head),
                     ERR_FULL);
    assert_int_equal(head.length, 77);
    assert_int_equal(pool_block_references(fixture->pool, fixture->sequence.blocks[0]), 1);
    pool_slot_release(fixture->pool, mark); /* still the caller's */
    while (taken > 0) {
        pool_block_release(fixture->pool, rest[--taken]);
    }
    expect_free(fixture, BLOCKS - 3, SLOTS - 1);
}

static void test_sequence_attach_without_room_leaves_it_as_it_was(void **state) {
    struct fixture *fixture = *state;
    struct sequence_head head;
    struct sequence other;
    int32_t slots[SLOTS];
    int taken = 0;
    assert_int_equal(sequence_start(&fixture->sequence, fixture->stream), ERR_OK);
    advance(fixture, &fixture->sequence, 12, 1);
    assert_int_equal(sequence_commit(&fixture->sequence, fixture->stream, 12, -1, &head), ERR_OK);
    assert_int_equal(sequence_init(&other, fixture->pool, CONTEXT), ERR_OK);
    while (pool_slot_take(fixture->pool, &slots[taken]) == ERR_OK) {
        taken++;
    }
    assert_int_equal(sequence_attach(&other, fixture->stream, &head), ERR_FULL);
    assert_int_equal(other.block_count, 0);
    assert_int_equal(other.length, 0);
    assert_int_equal(pool_block_references(fixture->pool, head.blocks[0]), 2);
    while (taken > 0) {
        pool_slot_release(fixture->pool, slots[--taken]);
    }
    sequence_done(&other);

    assert_int_equal(sequence_init(&other, fixture->pool, BLOCK_SIZE), ERR_OK);
    assert_int_equal(sequence_attach(&other, fixture->stream, &head), ERR_INVALID);
    sequence_done(&other);
    sequence_head_release(&head);
    expect_free(fixture, BLOCKS - 2, SLOTS - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sequence_starts_from_a_cleared_slot, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_reserves_whole_blocks, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_reserve_takes_all_or_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_start_without_a_slot_leaves_it_as_it_was,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_commits_and_attaches, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_commit_at_a_block_border_has_no_tail, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_commit_takes_a_marked_slot_over, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_commit_without_room_takes_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_sequence_attach_without_room_leaves_it_as_it_was,
                                        set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
