/*
 * Typed access to the ledger's tables inside a transaction of the caller's: keys, records, and the
 * cutting of long records into parts of a page. Internal to ledger/.
 *
 * A turn (and, as turn 0, the dialect) lies in parts of LEDGER_TABLE_PART_BYTES, each of which
 * fills one LMDB page: any free page fits, so a fragmented map never refuses a long turn for want
 * of contiguous pages.
 *
 * Decoded records are owned copies; nothing handed out points into the map.
 */
#ifndef TERN_LEDGER_LEDGER_TABLE_H
#define TERN_LEDGER_LEDGER_TABLE_H

#include "ledger/ledger_db.h"
#include "ledger/ledger_record.h"
#include "ledger/turn_record.h"

enum { LEDGER_TABLE_PART_BYTES = 4080 }; /* a page of 4096 less LMDB's header of 16 */

MUST_USE enum err ledger_table_mark_get(struct ledger_db_txn *txn, struct ledger_record_mark *out);
MUST_USE enum err ledger_table_mark_put(struct ledger_db_txn *txn,
                                        const struct ledger_record_mark *mark);

/* The number that a key of 8 bytes, or longer, begins with: a serial, or a time. */
uint64_t ledger_table_serial_of_key(const uint8_t *key);

/* Counts next_serial on from SERIAL, which it must be. */
MUST_USE enum err ledger_table_serial_use(struct ledger_db_txn *txn, uint64_t serial);

MUST_USE enum err ledger_table_conversation_get(struct ledger_db_txn *txn,
                                                const struct conversation_key *key,
                                                struct conversation_record *out);
/* As above, but ERR_NOT_FOUND also if the conversation has another serial: it was deleted. */
MUST_USE enum err ledger_table_conversation_same(struct ledger_db_txn *txn,
                                                 const struct conversation_key *key,
                                                 uint64_t serial, struct conversation_record *out);
MUST_USE enum err ledger_table_conversation_put(struct ledger_db_txn *txn,
                                                const struct conversation_key *key,
                                                const struct buf *record);
MUST_USE enum err ledger_table_conversation_remove(struct ledger_db_txn *txn,
                                                   const struct conversation_key *key);
/*
 * The key of the first conversation behind AFTER (NULL: of all) and its record's bytes, which
 * are valid as ledger_db.h says. ERR_NOT_FOUND behind the last.
 */
MUST_USE enum err ledger_table_conversation_next(struct ledger_db_txn *txn,
                                                 const struct conversation_key *after,
                                                 struct conversation_key *key,
                                                 struct ledger_db_bytes *record);

/* An encoded turn or dialect. Put expects that none lies there; remove takes what there is. */
MUST_USE enum err ledger_table_parts_put(struct ledger_db_txn *txn, struct turn_record_place place,
                                         const struct buf *record);
MUST_USE enum err ledger_table_parts_get(struct ledger_db_txn *txn, struct turn_record_place place,
                                         struct buf *record);
MUST_USE enum err ledger_table_parts_remove(struct ledger_db_txn *txn,
                                            struct turn_record_place place);
MUST_USE enum err ledger_table_turn_get(struct ledger_db_txn *txn, struct turn_record_place place,
                                        struct turn_record *out);

/* Where the first part lies that is not in front of PART of PLACE; ERR_NOT_FOUND behind the last.
 */
MUST_USE enum err ledger_table_turn_next(struct ledger_db_txn *txn, struct turn_record_place place,
                                         uint32_t part, struct turn_record_place *out);

/* Removes at most PARTS_MAX parts of any turn of SERIAL; *is_done once none is left. */
MUST_USE enum err ledger_table_turns_remove(struct ledger_db_txn *txn, uint64_t serial,
                                            size_t parts_max, int *is_done);

/*
 * The ids of the line after the turn at PLACE (none for turn 0), malloc'ed; ERR_CORRUPT if they
 * do not have the token chain digest that the turn carries.
 */
MUST_USE enum err ledger_table_line_get(struct ledger_db_txn *txn, struct turn_record_place place,
                                        int32_t **ids, size_t *count);

MUST_USE enum err ledger_table_tombstone_get(struct ledger_db_txn *txn, uint64_t serial,
                                             struct ledger_record_tombstone *out);
MUST_USE enum err ledger_table_tombstone_put(struct ledger_db_txn *txn,
                                             const struct ledger_record_tombstone *tombstone);
MUST_USE enum err ledger_table_tombstone_remove(struct ledger_db_txn *txn, uint64_t serial);
/* The first with a serial of FROM or more; ERR_NOT_FOUND behind the last. */
MUST_USE enum err ledger_table_tombstone_next(struct ledger_db_txn *txn, uint64_t from,
                                              struct ledger_record_tombstone *out);

MUST_USE enum err ledger_table_idempotency_get(struct ledger_db_txn *txn,
                                               const struct conversation_key *hash,
                                               struct ledger_record_idempotency *out);
/* ERR_NOT_FOUND if the index of times lacks the entry. */
MUST_USE enum err ledger_table_expiry_find(struct ledger_db_txn *txn,
                                           const struct ledger_record_idempotency *entry);
/* Replaces an older entry of the same hash. */
MUST_USE enum err ledger_table_idempotency_put(struct ledger_db_txn *txn,
                                               const struct ledger_record_idempotency *entry);
/* Removes at most ENTRIES_MAX of those that expired by NOW_MS; *removed gets their number. */
MUST_USE enum err ledger_table_idempotency_expire(struct ledger_db_txn *txn, uint64_t now_ms,
                                                  size_t entries_max, size_t *removed);

#endif
