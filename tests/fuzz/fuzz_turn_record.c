/*
 * The decoders of the ledger's records. The first byte picks the record kind and whether the rest
 * is a whole record or a payload that is put into a frame with a right checksum, so that the fuzzer
 * gets past the checksum. What decodes must encode to the same bytes.
 */
#include "ledger/ledger_record.h"
#include "ledger/record_frame.h"
#include "ledger/turn_record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { SERIAL = 77, TURN_AT = 48, INPUT_BYTES_MAX = 1 << 20 };

static void expect(int is_true) {
    if (!is_true) {
        abort();
    }
}

static void expect_same(struct buf *encoded, enum err code, const struct buf *record) {
    expect(code == ERR_OK && encoded->len == record->len &&
           memcmp(encoded->data, record->data, record->len) == 0);
}

static void try_turn(const struct buf *record, uint32_t turn) {
    struct buf again CLEANUP(buf_done);
    struct turn_record_place place = {SERIAL, turn};
    struct turn_record read;
    buf_init(&again, TURN_RECORD_BYTES_MAX);
    if (turn_record_decode(record->data, record->len, place, &read) == ERR_OK) {
        expect_same(&again, turn_record_encode(&read, SERIAL, &again), record);
        turn_record_done(&read);
    }
}

static void try_conversation(const struct buf *record, const struct conversation_key *key) {
    struct buf again CLEANUP(buf_done);
    struct conversation_record read;
    buf_init(&again, TURN_RECORD_BYTES_MAX);
    if (turn_record_decode_conversation(record->data, record->len, key, &read) == ERR_OK) {
        expect_same(&again, turn_record_encode_conversation(&read, &again), record);
        turn_record_conversation_done(&read);
    }
}

static void try_small(enum record_frame_kind kind, const struct buf *record,
                      const struct conversation_key *key) {
    struct buf again CLEANUP(buf_done);
    struct ledger_record_mark mark;
    struct ledger_record_tombstone tombstone;
    struct ledger_record_idempotency idempotency;
    const uint8_t *text;
    size_t text_bytes;
    buf_init(&again, TURN_RECORD_BYTES_MAX);
    if (kind == RECORD_FRAME_LEDGER &&
        ledger_record_decode_mark(record->data, record->len, &mark) == ERR_OK) {
        expect_same(&again, ledger_record_encode_mark(&mark, &again), record);
    }
    if (kind == RECORD_FRAME_DIALECT &&
        turn_record_decode_dialect(record->data, record->len, SERIAL, &text, &text_bytes) ==
            ERR_OK) {
        expect_same(&again, turn_record_encode_dialect(text, text_bytes, SERIAL, &again), record);
    }
    if (kind == RECORD_FRAME_TOMBSTONE &&
        ledger_record_decode_tombstone(record->data, record->len, SERIAL, &tombstone) == ERR_OK) {
        expect_same(&again, ledger_record_encode_tombstone(&tombstone, &again), record);
    }
    if (kind == RECORD_FRAME_IDEMPOTENCY &&
        ledger_record_decode_idempotency(record->data, record->len, key, &idempotency) == ERR_OK) {
        expect_same(&again, ledger_record_encode_idempotency(&idempotency, &again), record);
    }
}

/* The own key of a record of this kind, as the decoders expect it. */
static struct record_frame_key own_key(enum record_frame_kind kind, uint32_t turn,
                                       const struct conversation_key *key, uint8_t place[12]) {
    memset(place, 0, 12);
    place[7] = SERIAL;
    for (int i = 0; i < 4; i++) {
        place[8 + i] = (uint8_t)(turn >> (8 * (3 - i)));
    }
    switch (kind) {
    case RECORD_FRAME_LEDGER:
        return (struct record_frame_key){"mark", 4};
    case RECORD_FRAME_TURN:
    case RECORD_FRAME_DIALECT:
        return (struct record_frame_key){place, 12};
    case RECORD_FRAME_TOMBSTONE:
        return (struct record_frame_key){place, 8};
    case RECORD_FRAME_CONVERSATION:
    case RECORD_FRAME_IDEMPOTENCY:
        break;
    }
    return (struct record_frame_key){key->bytes, CONVERSATION_KEY_BYTES};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const struct conversation_key key = {{1, 2, 3}};
    if (bytes < 1 || bytes > INPUT_BYTES_MAX) {
        return 0;
    }
    enum record_frame_kind kind = (enum record_frame_kind)(1 + data[0] % RECORD_FRAME_TOMBSTONE);
    int is_payload = data[0] >= 128;
    const uint8_t *rest = data + 1;
    size_t rest_bytes = bytes - 1;
    uint32_t turn = 0;
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    if (is_payload) {
        uint8_t place[12];
        uint8_t *payload;
        if (kind == RECORD_FRAME_TURN && rest_bytes >= TURN_AT + 4) {
            turn = record_frame_load_u32(rest + TURN_AT);
        }
        expect(record_frame_begin(kind, rest_bytes, &record, &payload) == ERR_OK);
        if (rest_bytes > 0) {
            memcpy(payload, rest, rest_bytes);
        }
        record_frame_seal(&record, own_key(kind, turn, &key, place));
    } else {
        turn = 1;
        expect(buf_append(&record, rest, rest_bytes) == ERR_OK);
    }
    err_clear();
    if (kind == RECORD_FRAME_TURN) {
        try_turn(&record, turn);
    } else if (kind == RECORD_FRAME_CONVERSATION) {
        try_conversation(&record, &key);
    } else {
        try_small(kind, &record, &key);
    }
    return 0;
}
