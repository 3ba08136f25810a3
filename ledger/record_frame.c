/*
 * The header:
 *
 *    0   4  magic "TLR1"
 *    4   2  version, 1
 *    6   2  kind
 *    8   8  payload bytes
 *   16   8  zero
 *   24  16  XXH3-128, in its canonical form, over: length of the key (64 bits), key,
 *           bytes 0 to 23 of the header, payload
 *   40      payload
 */
#include "ledger/record_frame.h"

#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* for a state on the stack */
#include <xxhash.h>

enum {
    MAGIC_AT = 0,
    VERSION_AT = 4,
    KIND_AT = 6,
    PAYLOAD_BYTES_AT = 8,
    ZERO_AT = 16,
    CHECKSUM_AT = 24,
    CHECKSUM_BYTES = 16,
};

_Static_assert(CHECKSUM_AT + CHECKSUM_BYTES == RECORD_FRAME_HEADER_BYTES, "the checksum is last");
_Static_assert(sizeof(XXH128_canonical_t) == CHECKSUM_BYTES, "the checksum has 128 bits");

static const uint8_t magic[4] = {'T', 'L', 'R', '1'};

static void checksum(const uint8_t *record, size_t len, struct record_frame_key key,
                     uint8_t out[CHECKSUM_BYTES]) {
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    uint8_t key_len[8];
    record_frame_store_u64(key_len, key.len);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, key_len, sizeof key_len);
    XXH3_128bits_update(&state, key.bytes, key.len);
    XXH3_128bits_update(&state, record, CHECKSUM_AT);
    XXH3_128bits_update(&state, record + RECORD_FRAME_HEADER_BYTES,
                        len - RECORD_FRAME_HEADER_BYTES);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, CHECKSUM_BYTES);
}

enum err record_frame_begin(enum record_frame_kind kind, size_t payload_bytes, struct buf *out,
                            uint8_t **payload) {
    assert(out->len == 0);
    if (payload_bytes > SIZE_MAX - RECORD_FRAME_HEADER_BYTES) {
        return err_fail(ERR_INVALID, "record of %zu bytes", payload_bytes);
    }
    uint8_t *record;
    TRY(buf_extend(out, RECORD_FRAME_HEADER_BYTES + payload_bytes, &record));
    memset(record, 0, RECORD_FRAME_HEADER_BYTES + payload_bytes);
    memcpy(record + MAGIC_AT, magic, sizeof magic);
    record_frame_store_u16(record + VERSION_AT, RECORD_FRAME_VERSION);
    record_frame_store_u16(record + KIND_AT, (uint16_t)kind);
    record_frame_store_u64(record + PAYLOAD_BYTES_AT, payload_bytes);
    *payload = record + RECORD_FRAME_HEADER_BYTES;
    return ERR_OK;
}

void record_frame_seal(struct buf *record, struct record_frame_key key) {
    assert(record->len >= RECORD_FRAME_HEADER_BYTES);
    checksum(record->data, record->len, key, record->data + CHECKSUM_AT);
}

enum err record_frame_length(const uint8_t *bytes, size_t len, uint64_t *record_bytes) {
    if (len < RECORD_FRAME_HEADER_BYTES || memcmp(bytes + MAGIC_AT, magic, sizeof magic) != 0) {
        return err_fail(ERR_FORMAT, "%zu bytes are no ledger record", len);
    }
    uint64_t payload_bytes = record_frame_load_u64(bytes + PAYLOAD_BYTES_AT);
    if (payload_bytes > UINT64_MAX - RECORD_FRAME_HEADER_BYTES) {
        return err_fail(ERR_FORMAT, "ledger record claims %llu bytes",
                        (unsigned long long)payload_bytes);
    }
    *record_bytes = payload_bytes + RECORD_FRAME_HEADER_BYTES;
    return ERR_OK;
}

enum err record_frame_open(enum record_frame_kind kind, const uint8_t *bytes, size_t len,
                           struct record_frame_key key, const uint8_t **payload,
                           size_t *payload_bytes) {
    uint64_t record_bytes;
    TRY(record_frame_length(bytes, len, &record_bytes));
    unsigned version = record_frame_load_u16(bytes + VERSION_AT);
    if (version != RECORD_FRAME_VERSION) {
        return err_fail(ERR_UNSUPPORTED, "ledger record of version %u; this build reads %d",
                        version, RECORD_FRAME_VERSION);
    }
    unsigned found_kind = record_frame_load_u16(bytes + KIND_AT);
    if (found_kind != (unsigned)kind) {
        return err_fail(ERR_FORMAT, "ledger record of kind %u in the place of kind %u", found_kind,
                        (unsigned)kind);
    }
    if (record_bytes != len || record_frame_load_u64(bytes + ZERO_AT) != 0) {
        return err_fail(ERR_FORMAT, "ledger record of %zu bytes claims %llu", len,
                        (unsigned long long)record_bytes);
    }
    uint8_t expected[CHECKSUM_BYTES];
    checksum(bytes, len, key, expected);
    if (memcmp(expected, bytes + CHECKSUM_AT, CHECKSUM_BYTES) != 0) {
        return err_fail(ERR_CORRUPT, "ledger record of kind %u fails its checksum", found_kind);
    }
    *payload = bytes + RECORD_FRAME_HEADER_BYTES;
    *payload_bytes = len - RECORD_FRAME_HEADER_BYTES;
    return ERR_OK;
}
