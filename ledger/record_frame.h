/*
 * The frame around every record of the ledger: a header of 40 bytes with a checksum over the
 * record's own key, the header and the payload, so that a valid record of another key, another kind
 * or another format is not taken for this one. Also the loads and stores of little-endian integers.
 *
 * Pure functions, any thread. Knows nothing of payloads.
 */
#ifndef TERN_LEDGER_RECORD_FRAME_H
#define TERN_LEDGER_RECORD_FRAME_H

#include "base/buf.h"

enum { RECORD_FRAME_HEADER_BYTES = 40, RECORD_FRAME_VERSION = 1 };

enum record_frame_kind {
    RECORD_FRAME_LEDGER = 1,
    RECORD_FRAME_CONVERSATION = 2,
    RECORD_FRAME_TURN = 3,
    RECORD_FRAME_DIALECT = 4,
    RECORD_FRAME_IDEMPOTENCY = 5,
    RECORD_FRAME_TOMBSTONE = 6,
};

/* The key that a record lies under, in the database's own bytes. Borrowed. */
struct record_frame_key {
    const void *bytes;
    size_t len;
};

/*
 * Appends a header and PAYLOAD_BYTES zero bytes to the empty buffer OUT; *payload points at them
 * until OUT grows. The caller fills them in and calls record_frame_seal.
 */
MUST_USE enum err record_frame_begin(enum record_frame_kind kind, size_t payload_bytes,
                                     struct buf *out, uint8_t **payload);
void record_frame_seal(struct buf *record, struct record_frame_key key);

/*
 * Checks a record and points *payload into BYTES. ERR_FORMAT if it is no record of this KIND,
 * ERR_UNSUPPORTED if its version is another, ERR_CORRUPT if checksum or key do not fit.
 */
MUST_USE enum err record_frame_open(enum record_frame_kind kind, const uint8_t *bytes, size_t len,
                                    struct record_frame_key key, const uint8_t **payload,
                                    size_t *payload_bytes);

/* What the header at BYTES claims as the whole record's length, unchecked but for the magic. */
MUST_USE enum err record_frame_length(const uint8_t *bytes, size_t len, uint64_t *record_bytes);

static inline void record_frame_store_u16(uint8_t *at, uint16_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void record_frame_store_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline void record_frame_store_u64(uint8_t *at, uint64_t value) {
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint16_t record_frame_load_u16(const uint8_t *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t record_frame_load_u32(const uint8_t *at) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--) {
        value = value << 8 | at[i];
    }
    return value;
}

static inline uint64_t record_frame_load_u64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | at[i];
    }
    return value;
}

#endif
