#include "engine/utf8_stream.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

/* All of TEXT in pushes of STEP bytes; returns the length of OUT. */
static size_t stream_all(const char *text, size_t len, size_t step, char *out) {
    struct utf8_stream stream = {0};
    size_t written = 0;
    for (size_t at = 0; at < len; at += step) {
        size_t part = len - at < step ? len - at : step;
        size_t added = utf8_stream_push(&stream, text + at, part, out + written);
        assert_true(added <= 3 * part + 12);
        assert_true(stream.held_count < 4);
        written += added;
    }
    size_t added = utf8_stream_finish(&stream, out + written);
    assert_true(added <= 12);
    assert_int_equal(stream.held_count, 0);
    return written + added;
}

static void expect(const char *text, const char *want) {
    char out[256];
    for (size_t step = 1; step <= strlen(text); step++) {
        size_t len = stream_all(text, strlen(text), step, out);
        assert_int_equal(len, strlen(want));
        assert_memory_equal(out, want, len);
    }
}

static void test_utf8_stream_holds_incomplete_characters_back(void **state) {
    (void)state;
    struct utf8_stream stream = {0};
    char out[32];
    assert_int_equal(utf8_stream_push(&stream, "a\xf0\x9f", 3, out), 1);
    assert_int_equal(utf8_stream_push(&stream, "\x98", 1, out), 0);
    assert_int_equal(utf8_stream_push(&stream, "\x80z", 2, out), 5);
    assert_memory_equal(out, "\xf0\x9f\x98\x80z", 5);
    assert_int_equal(utf8_stream_finish(&stream, out), 0);
}

/* The examples of the Unicode standard for replacement of maximal subparts, and their like. */
static void test_utf8_stream_replaces_maximal_subparts(void **state) {
    (void)state;
    expect("a\xf1\x80\x80\xe1\x80\xc2"
           "b\x80"
           "c\x80\xbf"
           "d",
           "a" REPLACEMENT REPLACEMENT REPLACEMENT "b" REPLACEMENT "c" REPLACEMENT REPLACEMENT "d");
    expect("\xc0\xaf\xe0\x80\xbf", REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT);
    expect("\xed\xa0\x80", REPLACEMENT REPLACEMENT REPLACEMENT);
    expect("\xf4\x91\x92\x93\xff\x41",
           REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT "A");
    expect("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
           REPLACEMENT REPLACEMENT REPLACEMENT REPLACEMENT "A");
    expect("x\xe3\x83", "x" REPLACEMENT);
    expect("\xef\xbf\xbd", REPLACEMENT);
}

/* A reader of its own: what is well-formed is kept, a maximal subpart is replaced. */
static size_t replace_naively(const unsigned char *text, size_t len, char *out) {
    size_t written = 0;
    for (size_t at = 0; at < len;) {
        unsigned char lead = text[at];
        size_t want = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        size_t have = lead > 0xf4 ? 0 : want > 0;
        while (have > 0 && have < want && at + have < len && (text[at + have] & 0xc0) == 0x80) {
            unsigned value = lead * 256u + text[at + 1];
            if ((value >= 0xe080 && value <= 0xe09f) || (value >= 0xeda0 && value <= 0xedbf) ||
                (value >= 0xf080 && value <= 0xf08f) || (value >= 0xf490 && value <= 0xf4bf)) {
                break;
            }
            have++;
        }
        if (have == want && want > 0) {
            memcpy(out + written, text + at, want);
            written += want;
        } else {
            memcpy(out + written, REPLACEMENT, 3);
            written += 3;
        }
        at += have > 0 ? have : 1;
    }
    return written;
}

static void test_utf8_stream_does_not_depend_on_the_cuts(void **state) {
    (void)state;
    static const char pool[] = "a\x80\xbf\xc2\xc3\xe0\xe1\xe3\xed\xef\xf0\xf1\xf4\xf5\x9f\x8f\xa0";
    srand(20);
    for (int round = 0; round < 20000; round++) {
        char text[24];
        char want[96];
        char got[96];
        size_t len = (size_t)rand() % sizeof text;
        for (size_t i = 0; i < len; i++) {
            text[i] = rand() % 8 == 0 ? (char)rand() : pool[(size_t)rand() % (sizeof pool - 1)];
        }
        size_t want_len = replace_naively((const unsigned char *)text, len, want);
        for (size_t step = 1; step <= 5; step++) {
            size_t got_len = stream_all(text, len, step, got);
            assert_int_equal(got_len, want_len);
            assert_memory_equal(got, want, want_len);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8_stream_holds_incomplete_characters_back),
        cmocka_unit_test(test_utf8_stream_replaces_maximal_subparts),
        cmocka_unit_test(test_utf8_stream_does_not_depend_on_the_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
