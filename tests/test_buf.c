#include "base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void test_buf_keeps_what_was_appended(void **state) {
    (void)state;
    struct buf buf;
    buf_init(&buf, 100000);
    for (unsigned i = 0; i < 5000; i++) {
        uint8_t bytes[3] = {(uint8_t)i, (uint8_t)(i >> 8), 7};
        assert_int_equal(buf_append(&buf, bytes, sizeof bytes), ERR_OK);
    }
    assert_int_equal(buf.len, 15000);
    for (unsigned i = 0; i < 5000; i++) {
        assert_int_equal(buf.data[3 * i], (uint8_t)i);
        assert_int_equal(buf.data[3 * i + 1], (uint8_t)(i >> 8));
    }
    buf_done(&buf);
}

static void test_buf_is_full_at_its_cap_and_not_before(void **state) {
    (void)state;
    struct buf buf;
    buf_init(&buf, 10);
    assert_int_equal(buf_append(&buf, "0123456", 7), ERR_OK);
    assert_int_equal(buf_append(&buf, "789a", 4), ERR_FULL);
    assert_int_equal(buf_printf(&buf, "%04d", 1), ERR_FULL);
    uint8_t *place = NULL;
    assert_int_equal(buf_extend(&buf, SIZE_MAX, &place), ERR_FULL);
    assert_null(place);
    assert_int_equal(buf.len, 7); /* as it was */
    assert_int_equal(buf_append(&buf, "789", 3), ERR_OK);
    assert_memory_equal(buf.data, "0123456789", 10);
    const char *text = NULL;
    assert_int_equal(buf_text(&buf, &text), ERR_OK); /* the NUL does not count */
    assert_string_equal(text, "0123456789");
    buf_done(&buf);
}

static void test_buf_prints_behind_what_is_there(void **state) {
    (void)state;
    struct buf buf;
    const char *text = NULL;
    buf_init(&buf, 1000);
    assert_int_equal(buf_append_text(&buf, "a="), ERR_OK);
    assert_int_equal(buf_printf(&buf, "%d, %s", 42, "b"), ERR_OK);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(buf_printf(&buf, "%c", 'c'), ERR_OK);
    }
    assert_int_equal(buf_text(&buf, &text), ERR_OK);
    assert_int_equal(strlen(text), buf.len);
    assert_int_equal(buf.len, 57);
    assert_memory_equal(text, "a=42, bccc", 10);
    buf_done(&buf);
}

static void test_buf_can_be_used_again(void **state) {
    (void)state;
    struct buf buf;
    const char *text = NULL;
    buf_init(&buf, 64);
    assert_int_equal(buf_text(&buf, &text), ERR_OK);
    assert_string_equal(text, "");
    assert_int_equal(buf_append(&buf, NULL, 0), ERR_OK);
    assert_int_equal(buf_append_text(&buf, "old"), ERR_OK);
    size_t capacity = buf.capacity;
    buf_clear(&buf);
    assert_int_equal(buf.len, 0);
    assert_int_equal(buf.capacity, capacity);
    assert_int_equal(buf_append_text(&buf, "new"), ERR_OK);
    assert_int_equal(buf_text(&buf, &text), ERR_OK);
    assert_string_equal(text, "new");
    buf_done(&buf);
    assert_null(buf.data);
    buf_done(&buf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_keeps_what_was_appended),
        cmocka_unit_test(test_buf_is_full_at_its_cap_and_not_before),
        cmocka_unit_test(test_buf_prints_behind_what_is_there),
        cmocka_unit_test(test_buf_can_be_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
