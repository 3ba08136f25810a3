#include "tests/ledger_fixture.h"

static struct conversation_key key_of(const struct secret *secret, const char *tenant,
                                      const char *salt, const char *id) {
    struct conversation_key key;
    struct conversation_identity identity = {
        .tenant = tenant,
        .tenant_bytes = strlen(tenant),
        .salt = salt,
        .salt_bytes = strlen(salt),
        .id = id,
        .id_bytes = strlen(id),
    };
    assert_int_equal(conversation_key_make(secret, &identity, &key), ERR_OK);
    return key;
}

static void test_conversation_key_frames_its_parts(void **state) {
    (void)state;
    const char *parts[][3] = {
        {"ab", "c", "d"}, {"a", "bc", "d"}, {"a", "b", "cd"}, {"", "abc", "d"},
        {"abc", "", "d"}, {"ab", "", "cd"}, {"", "", "abcd"}, {"ab", "c", "e"},
    };
    struct secret secret = {{1, 2, 3}};
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct conversation_key left = key_of(&secret, parts[i][0], parts[i][1], parts[i][2]);
        for (size_t j = 0; j < ARRAY_LEN(parts); j++) {
            struct conversation_key right = key_of(&secret, parts[j][0], parts[j][1], parts[j][2]);
            assert_int_equal(conversation_key_compare(&left, &right) == 0, i == j);
        }
    }
}

static void test_conversation_key_depends_on_the_secret(void **state) {
    (void)state;
    struct secret first = {{1}};
    struct secret second = {{2}};
    struct conversation_key left = key_of(&first, "t", "s", "id");
    struct conversation_key right = key_of(&second, "t", "s", "id");
    assert_int_not_equal(conversation_key_compare(&left, &right), 0);
    uint8_t checks[2][SECRET_CHECK_BYTES];
    secret_check(&first, checks[0]);
    secret_check(&second, checks[1]);
    assert_memory_not_equal(checks[0], checks[1], SECRET_CHECK_BYTES);
}

static void test_conversation_key_is_stable(void **state) {
    (void)state;
    /* Keys are on disk: another value here would lose every conversation there is. */
    static const uint8_t expected[CONVERSATION_KEY_BYTES] = {
        0xa2, 0xbd, 0xc4, 0x92, 0x24, 0xb6, 0xc1, 0xfe, 0x02, 0x57, 0xed,
        0xac, 0x5c, 0x13, 0x9d, 0x66, 0x07, 0x0f, 0x29, 0xc8, 0x2e, 0xf3,
        0xbe, 0x82, 0x36, 0x68, 0x0e, 0xee, 0x82, 0x70, 0x59, 0xbe,
    };
    struct secret secret;
    for (int i = 0; i < SECRET_BYTES; i++) {
        secret.bytes[i] = (uint8_t)i;
    }
    struct conversation_key key = key_of(&secret, "tenant", "salt", "id");
    assert_memory_equal(key.bytes, expected, sizeof expected);
}

static void test_conversation_key_of_idempotency_has_its_own_domain(void **state) {
    (void)state;
    struct secret secret = {{7}};
    struct conversation_identity identity = {
        .tenant = "t", .tenant_bytes = 1, .salt = "s", .salt_bytes = 1, .id = "x", .id_bytes = 1};
    struct conversation_key key;
    struct conversation_key hash;
    struct conversation_key other;
    assert_int_equal(conversation_key_make(&secret, &identity, &key), ERR_OK);
    assert_int_equal(conversation_key_of_idempotency(&secret, &identity, "x", 1, &hash), ERR_OK);
    assert_int_not_equal(conversation_key_compare(&key, &hash), 0);
    identity.id = "another";
    identity.id_bytes = 7;
    assert_int_equal(conversation_key_of_idempotency(&secret, &identity, "x", 1, &other), ERR_OK);
    assert_int_equal(conversation_key_compare(&hash, &other), 0);
    identity.tenant = "u";
    assert_int_equal(conversation_key_of_idempotency(&secret, &identity, "x", 1, &other), ERR_OK);
    assert_int_not_equal(conversation_key_compare(&hash, &other), 0);
}

static void test_conversation_key_refuses_empty_and_long_names(void **state) {
    (void)state;
    struct secret secret = {{7}};
    static char text[CONVERSATION_KEY_PART_BYTES_MAX + 1];
    struct conversation_key key;
    struct conversation_identity identity = {.id = text};
    assert_int_equal(conversation_key_make(&secret, &identity, &key), ERR_INVALID);
    identity.id_bytes = sizeof text;
    assert_int_equal(conversation_key_make(&secret, &identity, &key), ERR_INVALID);
    identity.id_bytes = sizeof text - 1;
    assert_int_equal(conversation_key_make(&secret, &identity, &key), ERR_OK);
    identity.salt = text;
    identity.salt_bytes = sizeof text;
    assert_int_equal(conversation_key_make(&secret, &identity, &key), ERR_INVALID);
    assert_int_equal(conversation_key_of_idempotency(&secret, &identity, text, 1, &key),
                     ERR_INVALID);
    identity.salt_bytes = 0;
    assert_int_equal(conversation_key_of_idempotency(&secret, &identity, text, 0, &key),
                     ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conversation_key_frames_its_parts),
        cmocka_unit_test(test_conversation_key_depends_on_the_secret),
        cmocka_unit_test(test_conversation_key_is_stable),
        cmocka_unit_test(test_conversation_key_of_idempotency_has_its_own_domain),
        cmocka_unit_test(test_conversation_key_refuses_empty_and_long_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
