#include "store/layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_layout_places_keys_and_values_one_after_the_other(void **state) {
    (void)state;
    struct layout layout;
    int index = -1;
    assert_int_equal(layout_init(&layout, 16, DTYPE_F16), ERR_OK);
    assert_int_equal(layout_add_kv(&layout, 3, 2, 5, 7, &index), ERR_OK);
    assert_int_equal(index, 0);
    assert_int_equal(layout_add_kv(&layout, 9, 1, 8, 8, &index), ERR_OK);
    assert_int_equal(index, 1);

    /* Keys of the first: 2 x 5 x 16 x 2 = 320 bytes; values: 2 x 16 x 7 x 2 = 448. */
    assert_int_equal(layout.kv[0].layer, 3);
    assert_int_equal(layout.kv[0].key_offset_bytes, 0);
    assert_int_equal(layout.kv[0].value_offset_bytes, 320);
    assert_int_equal(layout.kv[1].layer, 9);
    assert_int_equal(layout.kv[1].key_offset_bytes, 768);
    assert_int_equal(layout.kv[1].value_offset_bytes, 768 + 256);
    assert_int_equal(layout.block_bytes, 768 + 512);
    assert_int_equal(layout.token_bytes, (2 * 5 + 2 * 7 + 8 + 8) * 2);
    layout_done(&layout);
}

static void test_layout_describes_segments_for_the_tail_copy(void **state) {
    (void)state;
    struct layout layout;
    assert_int_equal(layout_init(&layout, 8, DTYPE_F32), ERR_OK);
    assert_int_equal(layout_add_kv(&layout, 0, 3, 4, 6, NULL), ERR_OK);
    assert_int_equal(layout.segments[0].offset_bytes, 0);
    assert_int_equal(layout.segments[0].outer, 3 * 4); /* [head][dimension][token] */
    assert_int_equal(layout.segments[0].token_values, 1);
    assert_int_equal(layout.segments[1].offset_bytes, 3 * 4 * 8 * 4);
    assert_int_equal(layout.segments[1].outer, 3); /* [head][token][dimension] */
    assert_int_equal(layout.segments[1].token_values, 6);
    layout_done(&layout);
}

/* Odd sizes: every part begins on 64 bytes, and the totals hold the padding. */
static void test_layout_aligns_every_part(void **state) {
    (void)state;
    struct layout layout;
    assert_int_equal(layout_init(&layout, 8, DTYPE_BF16), ERR_OK);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(layout_add_kv(&layout, i, 1, 3 + i, 5 + i, NULL), ERR_OK);
        assert_int_equal(
            layout_add_state(&layout, i, i % 2 == 0 ? "conv" : "ssm", (int[]){1, 3, 5 + i}, NULL),
            ERR_OK);
    }
    size_t end = 0;
    for (int i = 0; i < 2 * layout.kv_count; i++) {
        assert_int_equal(layout.segments[i].offset_bytes % LAYOUT_ALIGN_BYTES, 0);
        assert_true(layout.segments[i].offset_bytes >= end);
        end = layout.segments[i].offset_bytes +
              (size_t)layout.segments[i].outer * 8 * (size_t)layout.segments[i].token_values * 2;
    }
    assert_true(end <= layout.block_bytes && layout.block_bytes - end < LAYOUT_ALIGN_BYTES);
    end = 0;
    for (int i = 0; i < layout.state_count; i++) {
        assert_int_equal(layout.states[i].offset_bytes % LAYOUT_ALIGN_BYTES, 0);
        assert_true(layout.states[i].offset_bytes >= end);
        assert_int_equal(layout.states[i].bytes, 3 * (5 + i) * 4);
        assert_string_equal(layout.states[i].part, i % 2 == 0 ? "conv" : "ssm");
        end = layout.states[i].offset_bytes + layout.states[i].bytes;
    }
    assert_true(end <= layout.slot_bytes && layout.slot_bytes - end < LAYOUT_ALIGN_BYTES);
    layout_done(&layout);
}

static void test_layout_counts_blocks_up(void **state) {
    (void)state;
    struct layout layout;
    assert_int_equal(layout_init(&layout, 32, DTYPE_F16), ERR_OK);
    assert_int_equal(layout_blocks(&layout, 0), 0);
    assert_int_equal(layout_blocks(&layout, 1), 1);
    assert_int_equal(layout_blocks(&layout, 32), 1);
    assert_int_equal(layout_blocks(&layout, 33), 2);
    layout_done(&layout);
}

static void test_layout_refuses_block_sizes_and_types(void **state) {
    (void)state;
    static const int sizes[] = {-32, 0, 4, 24, 33, 512};
    struct layout layout = {.block_size = 77};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        err_clear();
        assert_int_equal(layout_init(&layout, sizes[i], DTYPE_F16), ERR_INVALID);
        assert_non_null(strstr(err_message(), "block size"));
    }
    assert_int_equal(layout_init(&layout, 32, DTYPE_Q8_0), ERR_INVALID);
    assert_non_null(strstr(err_message(), "Q8_0"));
    assert_int_equal(layout.block_size, 77); /* untouched */
}

static void test_layout_refuses_sizes_and_stays_as_it_was(void **state) {
    (void)state;
    struct layout layout;
    assert_int_equal(layout_init(&layout, 256, DTYPE_F32), ERR_OK);
    assert_int_equal(layout_add_kv(&layout, 0, 1, 1, 1, NULL), ERR_OK);
    size_t before = layout.block_bytes;
    assert_int_equal(layout_add_kv(&layout, 1, 0, 1, 1, NULL), ERR_INVALID);
    assert_int_equal(layout_add_kv(&layout, 1, 1, -1, 1, NULL), ERR_INVALID);
    assert_int_equal(layout_add_kv(&layout, 1, INT32_MAX, INT32_MAX, 1, NULL), ERR_INVALID);
    assert_int_equal(layout_add_kv(&layout, 1, INT32_MAX, 1, INT32_MAX, NULL), ERR_INVALID);
    assert_int_equal(layout_add_state(&layout, 1, "ssm", (int[]){1, 0, 1}, NULL), ERR_INVALID);
    assert_int_equal(
        layout_add_state(&layout, 1, "ssm", (int[]){INT32_MAX, INT32_MAX, INT32_MAX}, NULL),
        ERR_INVALID);
    assert_int_equal(layout.block_bytes, before);
    assert_int_equal(layout.kv_count, 1);
    assert_int_equal(layout.state_count, 0);
    assert_int_equal(layout.slot_bytes, 0);
    layout_done(&layout);
}

/* Each entry fits, their sum does not. */
static void test_layout_refuses_totals_that_overflow(void **state) {
    (void)state;
    struct layout layout;
    assert_int_equal(layout_init(&layout, 8, DTYPE_F32), ERR_OK);
    const int dims[] = {1 << 20, 1 << 20, 1 << 18}; /* 2^60 bytes */
    enum err code = ERR_OK;
    int added = 0;
    while (code == ERR_OK && added < 8) {
        code = layout_add_state(&layout, 0, "ssm", dims, NULL);
        added += code == ERR_OK;
    }
    assert_int_equal(code, ERR_INVALID);
    assert_int_equal(layout.state_count, added);
    assert_int_equal(layout.slot_bytes, (size_t)added << 60);
    layout_done(&layout);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_places_keys_and_values_one_after_the_other),
        cmocka_unit_test(test_layout_describes_segments_for_the_tail_copy),
        cmocka_unit_test(test_layout_aligns_every_part),
        cmocka_unit_test(test_layout_counts_blocks_up),
        cmocka_unit_test(test_layout_refuses_block_sizes_and_types),
        cmocka_unit_test(test_layout_refuses_sizes_and_stays_as_it_was),
        cmocka_unit_test(test_layout_refuses_totals_that_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
