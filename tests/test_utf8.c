#include "engine/utf8.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

static void expect(const char *text, size_t len, enum utf8_status status, size_t taken) {
    size_t got;
    uint32_t codepoint;
    assert_int_equal(utf8_next(text, len, &got, &codepoint), status);
    assert_int_equal(got, taken);
}

/* Every code point, encoded by the definition; surrogates must be refused. */
static void test_utf8_reads_every_character(void **state) {
    (void)state;
    for (uint32_t point = 0; point <= 0x10ffff; point++) {
        char text[4];
        size_t len;
        if (point < 0x80) {
            text[0] = (char)point;
            len = 1;
        } else if (point < 0x800) {
            text[0] = (char)(0xc0 | point >> 6);
            text[1] = (char)(0x80 | (point & 0x3f));
            len = 2;
        } else if (point < 0x10000) {
            text[0] = (char)(0xe0 | point >> 12);
            text[1] = (char)(0x80 | (point >> 6 & 0x3f));
            text[2] = (char)(0x80 | (point & 0x3f));
            len = 3;
        } else {
            text[0] = (char)(0xf0 | point >> 18);
            text[1] = (char)(0x80 | (point >> 12 & 0x3f));
            text[2] = (char)(0x80 | (point >> 6 & 0x3f));
            text[3] = (char)(0x80 | (point & 0x3f));
            len = 4;
        }
        if (point >= 0xd800 && point <= 0xdfff) {
            expect(text, len, UTF8_INVALID, 1);
            assert_int_equal(utf8_valid_prefix(text, len), 0);
            continue;
        }
        size_t taken;
        uint32_t got;
        assert_int_equal(utf8_next(text, len, &taken, &got), UTF8_COMPLETE);
        assert_int_equal(taken, len);
        assert_int_equal(got, point);
        for (size_t cut = 1; cut < len; cut++) {
            expect(text, cut, UTF8_INCOMPLETE, cut);
        }
    }
}

static void test_utf8_cuts_maximal_subparts(void **state) {
    (void)state;
    expect("\x80", 1, UTF8_INVALID, 1);
    expect("\xc0\xaf", 2, UTF8_INVALID, 1);         /* overlong */
    expect("\xc1\xbf", 2, UTF8_INVALID, 1);         /* overlong */
    expect("\xe0\x9f\xbf", 3, UTF8_INVALID, 1);     /* overlong */
    expect("\xf0\x8f\xbf\xbf", 4, UTF8_INVALID, 1); /* overlong */
    expect("\xf4\x90\x80\x80", 4, UTF8_INVALID, 1); /* above U+10FFFF */
    expect("\xf5\x80\x80\x80", 4, UTF8_INVALID, 1);
    expect("\xff", 1, UTF8_INVALID, 1);
    expect("\xe1\x80\xe2", 3, UTF8_INVALID, 2);
    expect("\xf1\x80\x80\x41", 4, UTF8_INVALID, 3);
    expect("\xf1\x80\x80", 3, UTF8_INCOMPLETE, 3);
}

static void test_utf8_finds_prefixes(void **state) {
    (void)state;
    assert_int_equal(utf8_valid_prefix("", 0), 0);
    assert_int_equal(utf8_valid_prefix("ab\xc3\xa4z", 5), 5);
    assert_int_equal(utf8_valid_prefix("ab\xc3\xa4\xc3", 5), 4);
    assert_int_equal(utf8_valid_prefix("a\0b\xff", 4), 3);
    assert_int_equal(utf8_invalid_prefix("abc", 3), 0);
    assert_int_equal(utf8_invalid_prefix("", 0), 0);
    assert_int_equal(utf8_invalid_prefix("\xff\xe1\x80\x80", 4), 1);
    assert_int_equal(utf8_invalid_prefix("\xff\xe1\x80z", 4), 3);
    assert_int_equal(utf8_invalid_prefix("\xf1\x80\x80", 3), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_reads_every_character),
        cmocka_unit_test(test_utf8_cuts_maximal_subparts),
        cmocka_unit_test(test_utf8_finds_prefixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
