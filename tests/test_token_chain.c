#include "tests/ledger_fixture.h"

static void test_token_chain_depends_on_ids_alone(void **state) {
    (void)state;
    static const uint8_t expected_empty[] = {0x9b, 0xbf, 0x9f, 0x2e, 0xa4, 0xa1, 0x22, 0x48,
                                             0xda, 0x62, 0x07, 0x93, 0x82, 0x20, 0xa4, 0xb5,
                                             0xfe, 0xcf, 0x5a, 0xfd, 0xb9, 0x0c, 0xc9, 0xe4,
                                             0xba, 0x75, 0x37, 0x49, 0xe7, 0x7d, 0xcb, 0x5d};
    static const uint8_t expected_70[] = {0x1d, 0x27, 0x2f, 0x58, 0x11, 0x09, 0x4d, 0x49,
                                          0xab, 0x96, 0x7e, 0x94, 0x4e, 0xe7, 0xaa, 0xd2,
                                          0x1b, 0xd7, 0x5a, 0x79, 0xda, 0x37, 0x28, 0x0d,
                                          0xd5, 0x29, 0x77, 0x85, 0x8a, 0x45, 0xd7, 0x38};
    int32_t ids[200];
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    uint8_t whole[TOKEN_CHAIN_DIGEST_BYTES];
    struct token_chain chain;
    for (int i = 0; i < 200; i++) {
        ids[i] = i * 3 + 1;
    }
    token_chain_digest_of(ids, 0, digest);
    assert_memory_equal(digest, expected_empty, sizeof digest);
    token_chain_digest_of(ids, 70, digest);
    assert_memory_equal(digest, expected_70, sizeof digest);
    for (size_t first = 0; first <= 200; first++) { /* cut in three anywhere: the same digest */
        size_t second = (200 - first) / 2;
        token_chain_init(&chain);
        token_chain_extend(&chain, ids, first);
        token_chain_digest(&chain, digest);
        token_chain_digest_of(ids, first, whole);
        assert_memory_equal(digest, whole, sizeof digest);
        token_chain_extend(&chain, ids + first, second);
        token_chain_extend(&chain, ids + first + second, 200 - first - second);
        token_chain_digest(&chain, digest);
        token_chain_digest_of(ids, 200, whole);
        assert_memory_equal(digest, whole, sizeof digest);
    }
    for (size_t i = 0; i < 200; i++) {
        ids[i] ^= 1;
        token_chain_digest_of(ids, 200, digest);
        assert_memory_not_equal(digest, whole, sizeof digest);
        ids[i] ^= 1;
        token_chain_digest_of(ids, i, digest);
        assert_memory_not_equal(digest, whole, sizeof digest);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_chain_depends_on_ids_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
