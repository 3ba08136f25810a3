/*
 * Payloads, behind the 40 bytes of record_frame; integers little-endian:
 *
 * Mark (own key: the 4 bytes "mark"):      Tombstone (own key: serial, big-endian):
 *    0   4  format, 1                         0  32  conversation key
 *    4   4  zero                             32   8  deleted, Unix time in ms
 *    8   8  epoch                            40   4  1 once its turns are removed
 *   16   8  next serial                      44   4  zero
 *   24   8  created, Unix time in ms         48
 *   32  16  check of the secret
 *   48                                     Idempotency (own key: the hash):
 *                                             0  32  conversation key
 *                                            32   8  serial
 *                                            40   8  expires, Unix time in ms
 *                                            48   4  turn
 *                                            52   4  zero
 *                                            56  32  request digest
 *                                            88
 */
#include "ledger/ledger_record.h"

#include "ledger/record_frame.h"

#include <string.h>

enum { MARK_BYTES = 48, TOMBSTONE_BYTES = 48, IDEMPOTENCY_BYTES = 88 };

static const struct record_frame_key mark_key = {"mark", 4};

static struct record_frame_key serial_key(uint64_t serial, uint8_t bytes[8]) {
    for (int i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(serial >> (8 * (7 - i)));
    }
    return (struct record_frame_key){bytes, 8};
}

static struct record_frame_key hash_key(const struct conversation_key *hash) {
    return (struct record_frame_key){hash->bytes, CONVERSATION_KEY_BYTES};
}

static enum err open_exact(enum record_frame_kind kind, const uint8_t *bytes, size_t len,
                           struct record_frame_key key, size_t expected_bytes,
                           const uint8_t **payload) {
    size_t payload_bytes;
    const uint8_t *found;
    TRY(record_frame_open(kind, bytes, len, key, &found, &payload_bytes));
    if (payload_bytes != expected_bytes) {
        return err_fail(ERR_FORMAT, "ledger record of kind %u with %zu bytes instead of %zu",
                        (unsigned)kind, payload_bytes, expected_bytes);
    }
    *payload = found;
    return ERR_OK;
}

enum err ledger_record_encode_mark(const struct ledger_record_mark *mark, struct buf *out) {
    uint8_t *payload;
    TRY(record_frame_begin(RECORD_FRAME_LEDGER, MARK_BYTES, out, &payload));
    record_frame_store_u32(payload, mark->format);
    record_frame_store_u64(payload + 8, mark->epoch);
    record_frame_store_u64(payload + 16, mark->next_serial);
    record_frame_store_u64(payload + 24, mark->created_ms);
    memcpy(payload + 32, mark->secret_check, SECRET_CHECK_BYTES);
    record_frame_seal(out, mark_key);
    return ERR_OK;
}

enum err ledger_record_decode_mark(const uint8_t *bytes, size_t len,
                                   struct ledger_record_mark *out) {
    const uint8_t *payload;
    size_t payload_bytes;
    TRY(record_frame_open(RECORD_FRAME_LEDGER, bytes, len, mark_key, &payload, &payload_bytes));
    /* The format comes first: another format's mark may have another length. */
    uint32_t format = payload_bytes >= 4 ? record_frame_load_u32(payload) : 0;
    if (format != LEDGER_RECORD_FORMAT) {
        return err_fail(ERR_UNSUPPORTED, "the ledger has format %u, this build reads format %d: %s",
                        format, LEDGER_RECORD_FORMAT,
                        format > LEDGER_RECORD_FORMAT ? "it was made by a newer tern"
                                                      : "it was made by an older tern");
    }
    if (payload_bytes != MARK_BYTES || record_frame_load_u32(payload + 4) != 0) {
        return err_fail(ERR_FORMAT, "ledger mark of %zu bytes", payload_bytes);
    }
    *out = (struct ledger_record_mark){
        .format = format,
        .epoch = record_frame_load_u64(payload + 8),
        .next_serial = record_frame_load_u64(payload + 16),
        .created_ms = record_frame_load_u64(payload + 24),
    };
    memcpy(out->secret_check, payload + 32, SECRET_CHECK_BYTES);
    return ERR_OK;
}

enum err ledger_record_encode_tombstone(const struct ledger_record_tombstone *tombstone,
                                        struct buf *out) {
    uint8_t key[8];
    uint8_t *payload;
    TRY(record_frame_begin(RECORD_FRAME_TOMBSTONE, TOMBSTONE_BYTES, out, &payload));
    memcpy(payload, tombstone->key.bytes, CONVERSATION_KEY_BYTES);
    record_frame_store_u64(payload + 32, tombstone->deleted_ms);
    record_frame_store_u32(payload + 40, tombstone->turns_are_removed ? 1 : 0);
    record_frame_seal(out, serial_key(tombstone->serial, key));
    return ERR_OK;
}

enum err ledger_record_decode_tombstone(const uint8_t *bytes, size_t len, uint64_t serial,
                                        struct ledger_record_tombstone *out) {
    uint8_t key[8];
    const uint8_t *payload = NULL;
    TRY(open_exact(RECORD_FRAME_TOMBSTONE, bytes, len, serial_key(serial, key), TOMBSTONE_BYTES,
                   &payload));
    if (record_frame_load_u32(payload + 40) > 1 || record_frame_load_u32(payload + 44) != 0) {
        return err_fail(ERR_FORMAT, "tombstone with an unknown flag");
    }
    *out = (struct ledger_record_tombstone){
        .serial = serial,
        .deleted_ms = record_frame_load_u64(payload + 32),
        .turns_are_removed = record_frame_load_u32(payload + 40) != 0,
    };
    memcpy(out->key.bytes, payload, CONVERSATION_KEY_BYTES);
    return ERR_OK;
}

enum err ledger_record_encode_idempotency(const struct ledger_record_idempotency *idempotency,
                                          struct buf *out) {
    uint8_t *payload;
    TRY(record_frame_begin(RECORD_FRAME_IDEMPOTENCY, IDEMPOTENCY_BYTES, out, &payload));
    memcpy(payload, idempotency->key.bytes, CONVERSATION_KEY_BYTES);
    record_frame_store_u64(payload + 32, idempotency->serial);
    record_frame_store_u64(payload + 40, idempotency->expires_ms);
    record_frame_store_u32(payload + 48, idempotency->turn);
    memcpy(payload + 56, idempotency->request_digest, LEDGER_RECORD_DIGEST_BYTES);
    record_frame_seal(out, hash_key(&idempotency->hash));
    return ERR_OK;
}

enum err ledger_record_decode_idempotency(const uint8_t *bytes, size_t len,
                                          const struct conversation_key *hash,
                                          struct ledger_record_idempotency *out) {
    const uint8_t *payload = NULL;
    TRY(open_exact(RECORD_FRAME_IDEMPOTENCY, bytes, len, hash_key(hash), IDEMPOTENCY_BYTES,
                   &payload));
    if (record_frame_load_u32(payload + 52) != 0) {
        return err_fail(ERR_FORMAT, "idempotency record with an unknown field");
    }
    *out = (struct ledger_record_idempotency){
        .hash = *hash,
        .serial = record_frame_load_u64(payload + 32),
        .expires_ms = record_frame_load_u64(payload + 40),
        .turn = record_frame_load_u32(payload + 48),
    };
    memcpy(out->key.bytes, payload, CONVERSATION_KEY_BYTES);
    memcpy(out->request_digest, payload + 56, LEDGER_RECORD_DIGEST_BYTES);
    return ERR_OK;
}
