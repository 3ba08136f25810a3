#include "engine/byte_map.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

/* The map from its definition: bytes that do not stand for themselves are numbered from U+0100. */
static void test_byte_map_reads_all_bytes(void **state) {
    (void)state;
    int next = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        int stands_for_itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                                (byte >= 0xae && byte <= 0xff);
        int point = stands_for_itself ? byte : next++;
        char text[2] = {(char)point};
        size_t len = 1;
        if (point >= 0x80) {
            text[0] = (char)(0xc0 | point >> 6);
            text[1] = (char)(0x80 | (point & 0x3f));
            len = 2;
        }
        char out[2];
        size_t out_len;
        assert_true(byte_map_decode(text, len, out, &out_len));
        assert_int_equal(out_len, 1);
        assert_int_equal((unsigned char)out[0], byte);
    }
    assert_int_equal(next, 0x144);
}

static void test_byte_map_refuses_what_is_outside(void **state) {
    (void)state;
    static const char *const texts[] = {" ",
                                        "a b",
                                        "\n",
                                        "\x7f",
                                        "\xc2\x80",
                                        "\xc2\xad",
                                        "\xc5\x84", /* U+0144 */
                                        "\xe4\xb8\xad",
                                        "\xff",
                                        "a\xc4"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char out[8];
        size_t out_len = 77;
        assert_false(byte_map_decode(texts[i], strlen(texts[i]), out, &out_len));
        assert_int_equal(out_len, 77);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_map_reads_all_bytes),
        cmocka_unit_test(test_byte_map_refuses_what_is_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
