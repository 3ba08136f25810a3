#include "ledger/state_key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct conversation_key counting_key(void) {
    struct conversation_key key;
    for (int i = 0; i < CONVERSATION_KEY_BYTES; i++) {
        key.bytes[i] = (uint8_t)i;
    }
    return key;
}

static void test_state_key_is_stable(void **state) {
    (void)state;
    /*
     * Heads on disk lie under it: another value here would lose every one of them. Computed by
     * Python: hashlib.blake2b(bytes(range(32)) + serial.to_bytes(8, "little"), digest_size=32).
     */
    static const uint8_t expected[STATE_KEY_BYTES] = {
        0xb6, 0x5f, 0x55, 0xe8, 0x41, 0x0a, 0x73, 0xfe, 0xc4, 0x72, 0x31,
        0x7e, 0x35, 0xd2, 0x0a, 0xaa, 0xc0, 0xbb, 0xe5, 0x05, 0x54, 0xa4,
        0x4e, 0x8d, 0x37, 0x8e, 0xf3, 0x22, 0x78, 0x03, 0xd6, 0x1b,
    };
    struct conversation_key key = counting_key();
    uint8_t made[STATE_KEY_BYTES];
    state_key_make(&key, 0x0102030405060708U, made);
    assert_memory_equal(made, expected, sizeof expected);
}

static void test_state_key_depends_on_key_and_serial(void **state) {
    (void)state;
    struct conversation_key key = counting_key();
    uint8_t first[STATE_KEY_BYTES];
    uint8_t other[STATE_KEY_BYTES];
    state_key_make(&key, 1, first);
    for (int bit = 0; bit < 64; bit++) {
        state_key_make(&key, 1 ^ UINT64_C(1) << bit, other);
        assert_memory_not_equal(first, other, sizeof first);
    }
    for (size_t i = 0; i < CONVERSATION_KEY_BYTES; i++) {
        key.bytes[i] ^= 1;
        state_key_make(&key, 1, other);
        assert_memory_not_equal(first, other, sizeof first);
        key.bytes[i] ^= 1;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_key_is_stable),
        cmocka_unit_test(test_state_key_depends_on_key_and_serial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
