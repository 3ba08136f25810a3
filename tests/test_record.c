#include "store/record.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct record_head sample_head(void) {
    struct record_head head = {
        .key = {.kind = RECORD_TURN_END, .turn = 3},
        .numerics_class = "host-1",
        .length = 101,
        .lineage = 12,
        .block_size = 32,
        .tail_tokens = 5,
        .block_count = 3,
        .block_bytes = 4096,
        .state_bytes = 8192,
        .tail_coded_bytes = 1000,
        .state_coded_bytes = 2000,
        .block_element = 2,
        .state_element = 1,
        .created_ms = 1,
        .used_ms = 2,
        .hits = 3,
        .expires_ms = 4,
    };
    memset(head.key.conversation, 1, sizeof head.key.conversation);
    memset(head.key.state_digest, 2, sizeof head.key.state_digest);
    memset(head.chain_digest, 3, sizeof head.chain_digest);
    return head;
}

static void test_record_gives_back_a_head(void **state) {
    (void)state;
    struct record_head head = sample_head();
    struct record_head back;
    uint8_t key[RECORD_HEAD_KEY_BYTES];
    uint8_t bytes[RECORD_HEAD_BYTES];
    record_head_key_encode(&head.key, key);
    record_head_encode(&head, bytes);
    memset(&back, 0, sizeof back);
    assert_int_equal(record_head_decode(key, sizeof key, bytes, sizeof bytes, &back), ERR_OK);
    assert_memory_equal(back.key.conversation, head.key.conversation, 32);
    assert_memory_equal(back.key.state_digest, head.key.state_digest, 32);
    assert_memory_equal(back.chain_digest, head.chain_digest, 32);
    assert_string_equal(back.numerics_class, "host-1");
    assert_int_equal(back.key.turn, 3);
    assert_int_equal(back.key.kind, RECORD_TURN_END);
    assert_int_equal(back.length, 101);
    assert_int_equal(back.lineage, 12);
    assert_int_equal(back.block_count, 3);
    assert_int_equal(back.tail_tokens, 5);
    assert_int_equal(back.tail_coded_bytes, 1000);
    assert_int_equal(back.state_coded_bytes, 2000);
    assert_int_equal(back.expires_ms, 4);
    assert_int_equal(back.hits, 3);
}

typedef enum err decode_fn(const uint8_t *, size_t, const uint8_t *, size_t);

static enum err decode_head(const uint8_t *key, size_t key_len, const uint8_t *bytes, size_t len) {
    struct record_head out;
    return record_head_decode(key, key_len, bytes, len, &out);
}

static enum err decode_lineage(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                               size_t len) {
    struct record_lineage out;
    return record_lineage_decode(key, key_len, bytes, len, &out);
}

static enum err decode_garbage(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                               size_t len) {
    struct record_garbage out;
    return record_garbage_decode(key, key_len, bytes, len, &out);
}

static enum err decode_quarantine(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                                  size_t len) {
    struct record_quarantine out;
    return record_quarantine_decode(key, key_len, bytes, len, &out);
}

static enum err decode_format(const uint8_t *key, size_t key_len, const uint8_t *bytes,
                              size_t len) {
    struct record_format out;
    (void)key;
    (void)key_len;
    return record_format_decode(bytes, len, &out);
}

/* Any flipped bit of the record or of its key, any other length and any other key are refused. */
static void refuse_all_changes(decode_fn *decode, const uint8_t *key, size_t key_len,
                               const uint8_t *bytes, size_t len, int has_key) {
    uint8_t changed_key[RECORD_KEY_BYTES_MAX];
    uint8_t changed[RECORD_HEAD_BYTES];
    memcpy(changed_key, key, key_len);
    memcpy(changed, bytes, len);
    assert_int_equal(decode(changed_key, key_len, changed, len), ERR_OK);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        changed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(decode(changed_key, key_len, changed, len), ERR_OK);
        changed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; has_key && bit < 8 * key_len; bit++) {
        changed_key[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_not_equal(decode(changed_key, key_len, changed, len), ERR_OK);
        changed_key[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        uint8_t *copy = malloc(cut + 1);
        memcpy(copy, bytes, cut);
        assert_int_not_equal(decode(changed_key, key_len, copy, cut), ERR_OK);
        free(copy);
    }
}

static void test_record_rejects_flipped_bit(void **state) {
    (void)state;
    uint8_t key[RECORD_KEY_BYTES_MAX];
    uint8_t bytes[RECORD_HEAD_BYTES];
    struct record_head head = sample_head();
    record_head_key_encode(&head.key, key);
    record_head_encode(&head, bytes);
    refuse_all_changes(decode_head, key, RECORD_HEAD_KEY_BYTES, bytes, RECORD_HEAD_BYTES, 1);

    struct record_quarantine quarantine = {7, 8, {RECORD_TAIL, 9, 10}};
    record_quarantine_encode(key, &quarantine, bytes);
    refuse_all_changes(decode_quarantine, key, RECORD_HEAD_KEY_BYTES, bytes,
                       RECORD_QUARANTINE_BYTES, 1);

    struct record_lineage lineage = {
        .id = 9, .parent = 4, .first_block = 3, .end_block = 8, .stored_bytes = 77};
    record_lineage_key_encode(9, key);
    record_lineage_encode(&lineage, bytes);
    refuse_all_changes(decode_lineage, key, RECORD_LINEAGE_KEY_BYTES, bytes, RECORD_LINEAGE_BYTES,
                       1);

    struct record_garbage garbage = {RECORD_BLOCK, 9, 3, 8};
    record_garbage_key_encode(&garbage, key);
    record_garbage_encode(&garbage, bytes);
    refuse_all_changes(decode_garbage, key, RECORD_GARBAGE_KEY_BYTES, bytes, RECORD_GARBAGE_BYTES,
                       1);

    struct record_format format = {RECORD_FORMAT_VERSION, 1, 2};
    record_format_encode(&format, bytes);
    refuse_all_changes(decode_format, key, 0, bytes, RECORD_FORMAT_BYTES, 0);
}

static void test_record_refuses_newer_versions(void **state) {
    (void)state;
    struct record_format format = {RECORD_FORMAT_VERSION + 1, 1, 2};
    uint8_t bytes[RECORD_HEAD_BYTES];
    record_format_encode(&format, bytes);
    assert_int_equal(record_format_decode(bytes, RECORD_FORMAT_BYTES, &format), ERR_UNSUPPORTED);
    struct record_head head = sample_head();
    uint8_t key[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(&head.key, key);
    record_head_encode(&head, bytes);
    bytes[4] = 2;
    assert_int_equal(record_head_decode(key, sizeof key, bytes, RECORD_HEAD_BYTES, &head),
                     ERR_UNSUPPORTED);
}

/* As LMDB compares with MDB_REVERSEKEY. */
static int compare_reversed(const uint8_t *a, const uint8_t *b, size_t len) {
    for (size_t i = len; i-- > 0;) {
        if (a[i] != b[i]) {
            return a[i] < b[i] ? -1 : 1;
        }
    }
    return 0;
}

static void test_record_keys_sort_as_numbers(void **state) {
    (void)state;
    uint8_t a[RECORD_RUN_KEY_BYTES];
    uint8_t b[RECORD_RUN_KEY_BYTES];
    static const struct {
        struct record_object_key key;
        uint32_t run;
    } rising[] = {
        {{RECORD_BLOCK, 1, 0}, 0},     {{RECORD_BLOCK, 1, 0}, 1},   {{RECORD_BLOCK, 1, 0}, 256},
        {{RECORD_BLOCK, 1, 1}, 0},     {{RECORD_BLOCK, 1, 255}, 9}, {{RECORD_BLOCK, 1, 256}, 0},
        {{RECORD_BLOCK, 1, 65536}, 0}, {{RECORD_TAIL, 1, 0}, 0},    {{RECORD_STATE, 1, 3}, 0},
        {{RECORD_BLOCK, 2, 0}, 0},     {{RECORD_BLOCK, 256, 0}, 0},
    };
    for (size_t i = 0; i + 1 < ARRAY_LEN(rising); i++) {
        record_run_key_encode(&rising[i].key, rising[i].run, a);
        record_run_key_encode(&rising[i + 1].key, rising[i + 1].run, b);
        assert_int_equal(compare_reversed(a, b, sizeof a), -1);
        struct record_object_key back;
        uint32_t run;
        assert_int_equal(record_run_key_decode(a, sizeof a, &back, &run), ERR_OK);
        assert_int_equal(back.part, rising[i].key.part);
        assert_int_equal(back.lineage, rising[i].key.lineage);
        assert_int_equal(back.index, rising[i].key.index);
        assert_int_equal(run, rising[i].run);
    }
    struct record_head head = sample_head();
    uint8_t low[RECORD_HEAD_KEY_BYTES];
    uint8_t high[RECORD_HEAD_KEY_BYTES];
    record_head_key_encode(&head.key, low);
    head.key.turn = 300;
    record_head_key_encode(&head.key, high);
    assert_int_equal(compare_reversed(low, high, sizeof low), -1);
    assert_true(record_head_key_matches(low, sizeof low, &head.key, 1));
    head.key.state_digest[0] ^= 1;
    assert_false(record_head_key_matches(low, sizeof low, &head.key, 1));
    assert_true(record_head_key_matches(low, sizeof low, &head.key, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_gives_back_a_head),
        cmocka_unit_test(test_record_rejects_flipped_bit),
        cmocka_unit_test(test_record_refuses_newer_versions),
        cmocka_unit_test(test_record_keys_sort_as_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
