#include "tests/ledger_fixture.h"

#include "ledger/record_frame.h"

static const struct turn_record_place place = {.serial = 77, .turn = 3};

/* A turn with every field set to something else. */
static struct turn_record sample_turn(void) {
    static const int32_t prompt[] = {1, 2, 3, 2147483647, 5};
    static const int32_t generated[] = {9, 8, 7};
    static const int32_t closing[] = {6};
    struct turn_record turn = {
        .turn = 3,
        .parent_turn = 2,
        .base_tokens = 1000,
        .prompt_end_tokens = 1004,
        .end_tokens = 1009,
        .pending_tokens = 2,
        .finish = TURN_RECORD_FINISH_TOOL_CALLS,
        .flags = 0xdeadbeef,
        .generation = 0x123456789abcdef0,
        .started_ms = 111,
        .committed_ms = 222,
        .prompt_ids = prompt,
        .prompt_count = ARRAY_LEN(prompt),
        .generated_ids = generated,
        .generated_count = ARRAY_LEN(generated),
        .closing_ids = closing,
        .closing_count = ARRAY_LEN(closing),
        .messages = (const uint8_t *)"[{\"role\": \"user\"}]",
        .messages_bytes = 18,
        .response = (const uint8_t *)"an answer",
        .response_bytes = 9,
        .extension = (const uint8_t *)"later",
        .extension_bytes = 5,
    };
    memset(turn.idempotency_hash, 0x11, sizeof turn.idempotency_hash);
    memset(turn.request_digest, 0x22, sizeof turn.request_digest);
    memset(turn.chain_digest, 0x33, sizeof turn.chain_digest);
    memset(turn.head_digest, 0x44, sizeof turn.head_digest);
    memset(turn.prompt_end_digest, 0x55, sizeof turn.prompt_end_digest);
    return turn;
}

static struct conversation_record sample_conversation(void) {
    struct conversation_record conversation = {
        .serial = 5,
        .generation = 6,
        .created_ms = 7,
        .updated_ms = 8,
        .expires_ms = 9,
        .turn = 10,
        .pending_tokens = 2,
        .flags = 0xf00d,
        .identity = {.tenant = "acme",
                     .tenant_bytes = 4,
                     .salt = "s",
                     .salt_bytes = 1,
                     .id = "the id",
                     .id_bytes = 6},
        .extension = (const uint8_t *)"ext",
        .extension_bytes = 3,
    };
    int32_t ids[70];
    for (int i = 0; i < 70; i++) {
        ids[i] = i * 3 + 1;
    }
    memset(conversation.key.bytes, 0x66, sizeof conversation.key.bytes);
    memset(conversation.dialect_digest, 0x77, sizeof conversation.dialect_digest);
    token_chain_init(&conversation.chain);
    token_chain_extend(&conversation.chain, ids, ARRAY_LEN(ids));
    return conversation;
}

static struct buf encoded_turn(const struct turn_record *turn) {
    struct buf record;
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    assert_int_equal(turn_record_encode(turn, place.serial, &record), ERR_OK);
    return record;
}

static void test_turn_record_round_trip(void **state) {
    (void)state;
    struct turn_record turn = sample_turn();
    struct buf record CLEANUP(buf_done) = encoded_turn(&turn);
    struct turn_record read;
    assert_int_equal(turn_record_decode(record.data, record.len, place, &read), ERR_OK);
    struct buf again CLEANUP(buf_done) = encoded_turn(&read);
    assert_int_equal(again.len, record.len);
    assert_memory_equal(again.data, record.data, record.len);
    assert_int_equal(read.turn, 3);
    assert_int_equal(read.parent_turn, 2);
    assert_int_equal(read.base_tokens, 1000);
    assert_int_equal(read.prompt_end_tokens, 1004);
    assert_int_equal(read.end_tokens, 1009);
    assert_int_equal(read.pending_tokens, 2);
    assert_int_equal(read.finish, TURN_RECORD_FINISH_TOOL_CALLS);
    assert_int_equal(read.flags, 0xdeadbeef);
    assert_int_equal(read.generation, 0x123456789abcdef0);
    assert_int_equal(read.started_ms, 111);
    assert_int_equal(read.committed_ms, 222);
    assert_memory_equal(read.prompt_ids, turn.prompt_ids, 4 * turn.prompt_count);
    assert_memory_equal(read.generated_ids, turn.generated_ids, 4 * turn.generated_count);
    assert_memory_equal(read.closing_ids, turn.closing_ids, 4 * turn.closing_count);
    assert_memory_equal(read.messages, turn.messages, turn.messages_bytes);
    assert_memory_equal(read.response, turn.response, turn.response_bytes);
    assert_memory_equal(read.extension, turn.extension, turn.extension_bytes);
    assert_memory_equal(read.idempotency_hash, turn.idempotency_hash, CONVERSATION_KEY_BYTES);
    assert_memory_equal(read.request_digest, turn.request_digest, TURN_RECORD_DIGEST_BYTES);
    assert_memory_equal(read.prompt_end_digest, turn.prompt_end_digest, 32);
    turn_record_done(&read);
}

static void test_turn_record_detects_every_flipped_bit_and_cut(void **state) {
    (void)state;
    struct turn_record turn = sample_turn();
    struct buf record CLEANUP(buf_done) = encoded_turn(&turn);
    struct turn_record read;
    for (size_t i = 0; i < 8 * record.len; i++) {
        record.data[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_not_equal(turn_record_decode(record.data, record.len, place, &read), ERR_OK);
        record.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    for (size_t len = 0; len < record.len; len++) {
        uint8_t *cut = malloc(len + 1); /* of its own, so that a read behind its end shows */
        assert_non_null(cut);
        memcpy(cut, record.data, len);
        assert_int_not_equal(turn_record_decode(cut, len, place, &read), ERR_OK);
        free(cut);
    }
    assert_int_equal(turn_record_decode(record.data, record.len, place, &read), ERR_OK);
    turn_record_done(&read);
}

static void test_turn_record_is_refused_in_another_place(void **state) {
    (void)state;
    struct turn_record turn = sample_turn();
    struct buf record CLEANUP(buf_done) = encoded_turn(&turn);
    struct turn_record read;
    struct turn_record_place other = {.serial = 78, .turn = 3};
    assert_int_equal(turn_record_decode(record.data, record.len, other, &read), ERR_CORRUPT);
    other = (struct turn_record_place){.serial = 77, .turn = 4};
    assert_int_equal(turn_record_decode(record.data, record.len, other, &read), ERR_CORRUPT);
}

/* Puts VALUE at OFFSET of the payload and seals the record anew: only the decoder's own checks
 * stand. */
static enum err decode_forged(size_t offset, uint32_t value) {
    uint8_t key[12] = {0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 3};
    struct turn_record turn = sample_turn();
    struct buf record CLEANUP(buf_done) = encoded_turn(&turn);
    struct turn_record read;
    record_frame_store_u32(record.data + RECORD_FRAME_HEADER_BYTES + offset, value);
    record_frame_seal(&record, (struct record_frame_key){key, sizeof key});
    enum err code = turn_record_decode(record.data, record.len, place, &read);
    if (code == ERR_OK) {
        turn_record_done(&read);
    }
    return code;
}

static void test_turn_record_refuses_hostile_fields(void **state) {
    (void)state;
    /* Forging works: a field that may hold anything is read back without complaint. */
    assert_int_equal(decode_forged(64, 1), ERR_OK);
    const uint32_t hostile[] = {0xffffffff, 0x7fffffff, 0x80000000, 0x40000000, 6, 4};
    const size_t counts[] = {68, 72, 76, 80, 84, 88};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        for (size_t j = 0; j < 4; j++) {
            assert_int_equal(decode_forged(counts[i], hostile[j]), ERR_FORMAT);
        }
    }
    assert_int_equal(decode_forged(68, 6), ERR_FORMAT); /* one id more than there is */
    assert_int_equal(decode_forged(68, 4), ERR_FORMAT);
    assert_int_equal(decode_forged(0, 999), ERR_FORMAT);        /* base and end differ */
    assert_int_equal(decode_forged(4, 0xffffffff), ERR_FORMAT); /* base far out */
    assert_int_equal(decode_forged(16, 999), ERR_FORMAT);       /* prompt end before the base */
    assert_int_equal(decode_forged(16, 1006), ERR_FORMAT);      /* behind the prompt */
    assert_int_equal(decode_forged(48, 2), ERR_FORMAT);         /* another turn */
    assert_int_equal(decode_forged(52, 3), ERR_FORMAT);         /* its own parent */
    assert_int_equal(decode_forged(56, 10), ERR_FORMAT);        /* more pending than added */
    assert_int_equal(decode_forged(60, 0), ERR_FORMAT);         /* no finish reason */
    assert_int_equal(decode_forged(60, 6), ERR_FORMAT);
    assert_int_equal(decode_forged(60, 0xffffffff), ERR_FORMAT);
    assert_int_equal(decode_forged(92, 1), ERR_FORMAT);           /* not zero */
    assert_int_equal(decode_forged(256, 0xffffffff), ERR_FORMAT); /* a negative id */
}

static void test_turn_record_encode_refuses_what_decode_would(void **state) {
    (void)state;
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    struct turn_record turn = sample_turn();
    turn.pending_tokens = 10;
    assert_int_equal(turn_record_encode(&turn, 1, &record), ERR_INVALID);
    turn = sample_turn();
    turn.end_tokens++;
    assert_int_equal(turn_record_encode(&turn, 1, &record), ERR_INVALID);
    turn = sample_turn();
    turn.messages_bytes = TURN_RECORD_BYTES_MAX;
    assert_int_equal(turn_record_encode(&turn, 1, &record), ERR_INVALID);
    turn.messages_bytes = SIZE_MAX - 100;
    assert_int_equal(turn_record_encode(&turn, 1, &record), ERR_INVALID);
    turn = sample_turn();
    turn.prompt_count = turn.generated_count = turn.closing_count = 0;
    turn.end_tokens = turn.base_tokens;
    turn.pending_tokens = 0;
    turn.prompt_end_tokens = 0;
    assert_int_equal(turn_record_encode(&turn, 1, &record), ERR_INVALID);
    assert_int_equal(record.len, 0);
}

static void test_turn_record_conversation_round_trip(void **state) {
    (void)state;
    struct conversation_record conversation = sample_conversation();
    struct buf record CLEANUP(buf_done);
    struct buf again CLEANUP(buf_done);
    buf_init(&record, 4096);
    buf_init(&again, 4096);
    struct conversation_record read;
    assert_int_equal(turn_record_encode_conversation(&conversation, &record), ERR_OK);
    assert_int_equal(
        turn_record_decode_conversation(record.data, record.len, &conversation.key, &read), ERR_OK);
    assert_int_equal(turn_record_encode_conversation(&read, &again), ERR_OK);
    assert_int_equal(again.len, record.len);
    assert_memory_equal(again.data, record.data, record.len);
    assert_int_equal(read.serial, 5);
    assert_int_equal(read.generation, 6);
    assert_int_equal(read.expires_ms, 9);
    assert_int_equal(read.turn, 10);
    assert_int_equal(read.flags, 0xf00d);
    assert_int_equal(read.identity.id_bytes, 6);
    assert_memory_equal(read.identity.id, "the id", 6);
    assert_memory_equal(read.identity.tenant, "acme", 4);
    assert_memory_equal(read.extension, "ext", 3);
    uint8_t expected[TOKEN_CHAIN_DIGEST_BYTES];
    uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
    token_chain_digest(&conversation.chain, expected);
    token_chain_digest(&read.chain, digest);
    assert_memory_equal(digest, expected, sizeof digest);
    turn_record_conversation_done(&read);
}

static void test_turn_record_conversation_detects_damage(void **state) {
    (void)state;
    struct conversation_record conversation = sample_conversation();
    struct buf record CLEANUP(buf_done);
    struct conversation_record read;
    buf_init(&record, 4096);
    assert_int_equal(turn_record_encode_conversation(&conversation, &record), ERR_OK);
    for (size_t i = 0; i < record.len; i++) {
        record.data[i] ^= 0x40;
        assert_int_not_equal(
            turn_record_decode_conversation(record.data, record.len, &conversation.key, &read),
            ERR_OK);
        record.data[i] ^= 0x40;
        assert_int_not_equal(
            turn_record_decode_conversation(record.data, i, &conversation.key, &read), ERR_OK);
    }
    struct conversation_key other = conversation.key;
    other.bytes[0] ^= 1;
    assert_int_equal(turn_record_decode_conversation(record.data, record.len, &other, &read),
                     ERR_CORRUPT);
    const size_t offsets[] = {40, 52, 60, 64, 68, 72, 76, 144, 144 + 4 * 20};
    for (size_t i = 0; i < ARRAY_LEN(offsets); i++) {
        uint8_t *field = record.data + RECORD_FRAME_HEADER_BYTES + offsets[i];
        uint32_t old = record_frame_load_u32(field);
        record_frame_store_u32(field, 0xfffffff0);
        record_frame_seal(&record, (struct record_frame_key){conversation.key.bytes, 32});
        assert_int_equal(
            turn_record_decode_conversation(record.data, record.len, &conversation.key, &read),
            ERR_FORMAT);
        record_frame_store_u32(field, old);
    }
}

static void test_turn_record_refuses_another_version_and_kind(void **state) {
    (void)state;
    struct turn_record turn = sample_turn();
    struct buf record CLEANUP(buf_done) = encoded_turn(&turn);
    struct turn_record read;
    struct conversation_record conversation;
    struct conversation_key key = {{0}};
    assert_int_equal(turn_record_decode_conversation(record.data, record.len, &key, &conversation),
                     ERR_FORMAT);
    record.data[4] = 2;
    assert_int_equal(turn_record_decode(record.data, record.len, place, &read), ERR_UNSUPPORTED);
}

static void test_turn_record_dialect_round_trip(void **state) {
    (void)state;
    struct buf record CLEANUP(buf_done);
    const uint8_t *text;
    size_t text_bytes;
    buf_init(&record, 4096);
    assert_int_equal(turn_record_encode_dialect((const uint8_t *)"{}", 2, 9, &record), ERR_OK);
    assert_int_equal(turn_record_decode_dialect(record.data, record.len, 9, &text, &text_bytes),
                     ERR_OK);
    assert_int_equal(text_bytes, 2);
    assert_memory_equal(text, "{}", 2);
    assert_int_equal(turn_record_decode_dialect(record.data, record.len, 8, &text, &text_bytes),
                     ERR_CORRUPT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turn_record_round_trip),
        cmocka_unit_test(test_turn_record_detects_every_flipped_bit_and_cut),
        cmocka_unit_test(test_turn_record_is_refused_in_another_place),
        cmocka_unit_test(test_turn_record_refuses_hostile_fields),
        cmocka_unit_test(test_turn_record_encode_refuses_what_decode_would),
        cmocka_unit_test(test_turn_record_conversation_round_trip),
        cmocka_unit_test(test_turn_record_conversation_detects_damage),
        cmocka_unit_test(test_turn_record_refuses_another_version_and_kind),
        cmocka_unit_test(test_turn_record_dialect_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
