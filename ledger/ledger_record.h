/*
 * The ledger's small records beside conversations and turns: its own mark (format, epoch, next
 * serial), tombstones of deleted conversations, and remembered Idempotency-Keys. Offsets are in
 * ledger_record.c; decoders treat their input as hostile.
 *
 * Pure functions, any thread. No record owns anything.
 */
#ifndef TERN_LEDGER_LEDGER_RECORD_H
#define TERN_LEDGER_LEDGER_RECORD_H

#include "base/buf.h"
#include "ledger/conversation_key.h"

enum { LEDGER_RECORD_FORMAT = 1, LEDGER_RECORD_DIGEST_BYTES = 32 };

struct ledger_record_mark {
    uint32_t format;      /* of the environment as a whole; decoding refuses all but ours */
    uint64_t epoch;       /* how often the ledger was opened for writing */
    uint64_t next_serial; /* of the next conversation, from 1 */
    uint64_t created_ms;
    uint8_t secret_check[SECRET_CHECK_BYTES];
};

struct ledger_record_tombstone {
    uint64_t serial; /* the record's own key, not in the payload */
    struct conversation_key key;
    uint64_t deleted_ms;
    int turns_are_removed;
};

struct ledger_record_idempotency {
    struct conversation_key hash; /* the record's own key, not in the payload */
    struct conversation_key key;
    uint64_t serial;
    uint64_t expires_ms;
    uint32_t turn;
    uint8_t request_digest[LEDGER_RECORD_DIGEST_BYTES];
};

/* All append to the empty buffer OUT. */
MUST_USE enum err ledger_record_encode_mark(const struct ledger_record_mark *mark, struct buf *out);
MUST_USE enum err ledger_record_encode_tombstone(const struct ledger_record_tombstone *tombstone,
                                                 struct buf *out);
MUST_USE enum err
ledger_record_encode_idempotency(const struct ledger_record_idempotency *idempotency,
                                 struct buf *out);

/* ERR_UNSUPPORTED for a mark of another format, with a message that says which. */
MUST_USE enum err ledger_record_decode_mark(const uint8_t *bytes, size_t len,
                                            struct ledger_record_mark *out);
MUST_USE enum err ledger_record_decode_tombstone(const uint8_t *bytes, size_t len, uint64_t serial,
                                                 struct ledger_record_tombstone *out);
MUST_USE enum err ledger_record_decode_idempotency(const uint8_t *bytes, size_t len,
                                                   const struct conversation_key *hash,
                                                   struct ledger_record_idempotency *out);

#endif
