/*
 * Tables and their keys. Integers inside keys are big-endian, so that LMDB's order is theirs.
 *
 *   mark                "mark"                                         one mark record
 *   conversation        conversation key (32)                          conversation record
 *   turn                serial (8), turn (4), part (4)                 a part of a turn record; of
 *                                                                      the dialect if turn is 0
 *   idempotency         hash (32)                                      idempotency record
 *   idempotency_expiry  expires (8), hash (32)                         nothing
 *   tombstone           serial (8)                                     tombstone record
 *
 * I1. A turn's parts are numbered from 0 without a gap; all but the last have
 *     LEDGER_TABLE_PART_BYTES, and the header in part 0 says how long the whole is.
 * I2. An idempotency record and its entry in idempotency_expiry come and go in one transaction.
 */
#include "ledger/ledger_table.h"

#include "base/fault.h"
#include "ledger/record_frame.h"

#include <stdlib.h>
#include <string.h>

enum { TURN_KEY_BYTES = 16, SERIAL_KEY_BYTES = 8, EXPIRY_KEY_BYTES = 40 };
enum { SMALL_RECORD_BYTES_MAX = 64 << 10 };

static const char mark_key[] = "mark";

static void store_big_endian(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
}

static uint64_t load_big_endian(const uint8_t *at, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static void make_turn_key(struct turn_record_place place, uint32_t part,
                          uint8_t key[TURN_KEY_BYTES]) {
    store_big_endian(key, place.serial, 8);
    store_big_endian(key + 8, place.turn, 4);
    store_big_endian(key + 12, part, 4);
}

uint64_t ledger_table_serial_of_key(const uint8_t *key) {
    return load_big_endian(key, 8);
}

/* Mark */

enum err ledger_table_mark_get(struct ledger_db_txn *txn, struct ledger_record_mark *out) {
    struct ledger_db_bytes bytes;
    TRY(ledger_db_get(txn, LEDGER_DB_MARK, mark_key, sizeof mark_key - 1, &bytes));
    return ledger_record_decode_mark(bytes.data, bytes.len, out);
}

enum err ledger_table_mark_put(struct ledger_db_txn *txn, const struct ledger_record_mark *mark) {
    struct buf record CLEANUP(buf_done);
    buf_init(&record, SMALL_RECORD_BYTES_MAX);
    TRY(ledger_record_encode_mark(mark, &record));
    return ledger_db_put(txn, LEDGER_DB_MARK, mark_key, sizeof mark_key - 1, record.data,
                         record.len);
}

enum err ledger_table_serial_use(struct ledger_db_txn *txn, uint64_t serial) {
    struct ledger_record_mark mark;
    TRY(ledger_table_mark_get(txn, &mark));
    assert(mark.next_serial == serial);
    mark.next_serial++;
    return ledger_table_mark_put(txn, &mark);
}

/* Conversations */

enum err ledger_table_conversation_get(struct ledger_db_txn *txn,
                                       const struct conversation_key *key,
                                       struct conversation_record *out) {
    struct ledger_db_bytes bytes;
    TRY(ledger_db_get(txn, LEDGER_DB_CONVERSATION, key->bytes, CONVERSATION_KEY_BYTES, &bytes));
    return turn_record_decode_conversation(bytes.data, bytes.len, key, out);
}

enum err ledger_table_conversation_same(struct ledger_db_txn *txn,
                                        const struct conversation_key *key, uint64_t serial,
                                        struct conversation_record *out) {
    struct conversation_record found;
    TRY(ledger_table_conversation_get(txn, key, &found));
    if (found.serial != serial) {
        turn_record_conversation_done(&found);
        return err_fail(ERR_NOT_FOUND, "the conversation with serial %llu was deleted",
                        (unsigned long long)serial);
    }
    *out = found;
    return ERR_OK;
}

enum err ledger_table_conversation_put(struct ledger_db_txn *txn,
                                       const struct conversation_key *key,
                                       const struct buf *record) {
    return ledger_db_put(txn, LEDGER_DB_CONVERSATION, key->bytes, CONVERSATION_KEY_BYTES,
                         record->data, record->len);
}

enum err ledger_table_conversation_remove(struct ledger_db_txn *txn,
                                          const struct conversation_key *key) {
    return ledger_db_remove(txn, LEDGER_DB_CONVERSATION, key->bytes, CONVERSATION_KEY_BYTES);
}

enum err ledger_table_conversation_next(struct ledger_db_txn *txn,
                                        const struct conversation_key *after,
                                        struct conversation_key *key,
                                        struct ledger_db_bytes *record) {
    uint8_t from[CONVERSATION_KEY_BYTES + 1] = {0}; /* one byte more: the next key possible */
    struct ledger_db_bytes found;
    if (after != NULL) {
        memcpy(from, after->bytes, CONVERSATION_KEY_BYTES);
    }
    TRY(ledger_db_seek(txn, LEDGER_DB_CONVERSATION, from, after != NULL ? sizeof from : 0, &found,
                       record));
    if (found.len != CONVERSATION_KEY_BYTES) {
        return err_fail(ERR_FORMAT, "conversation under a key of %zu bytes", found.len);
    }
    memcpy(key->bytes, found.data, CONVERSATION_KEY_BYTES);
    return ERR_OK;
}

/* Turns in parts */

enum err ledger_table_parts_put(struct ledger_db_txn *txn, struct turn_record_place place,
                                const struct buf *record) {
    uint8_t key[TURN_KEY_BYTES];
    uint32_t part = 0;
    for (size_t at = 0; at < record->len; at += LEDGER_TABLE_PART_BYTES) {
        size_t len = record->len - at;
        len = len < LEDGER_TABLE_PART_BYTES ? len : LEDGER_TABLE_PART_BYTES;
        make_turn_key(place, part++, key);
        TRY(ledger_db_put(txn, LEDGER_DB_TURN, key, sizeof key, record->data + at, len));
    }
    return ERR_OK;
}

enum err ledger_table_parts_get(struct ledger_db_txn *txn, struct turn_record_place place,
                                struct buf *record) {
    uint8_t key[TURN_KEY_BYTES];
    uint64_t total = 0;
    buf_clear(record);
    for (uint32_t part = 0; part == 0 || record->len < total; part++) {
        struct ledger_db_bytes bytes;
        make_turn_key(place, part, key);
        enum err code = ledger_db_get(txn, LEDGER_DB_TURN, key, sizeof key, &bytes);
        if (code == ERR_NOT_FOUND && part > 0) {
            code = err_fail(ERR_CORRUPT, "turn %u lacks its part %u", place.turn, part);
        }
        TRY(code);
        if (part == 0) {
            TRY(record_frame_length(bytes.data, bytes.len, &total));
        }
        uint64_t rest = total - record->len;
        if (bytes.len != (rest < LEDGER_TABLE_PART_BYTES ? rest : LEDGER_TABLE_PART_BYTES)) {
            return err_fail(ERR_CORRUPT, "turn %u has %zu bytes in part %u", place.turn, bytes.len,
                            part);
        }
        TRY(buf_append(record, bytes.data, bytes.len));
    }
    return ERR_OK;
}

enum err ledger_table_turn_next(struct ledger_db_txn *txn, struct turn_record_place place,
                                uint32_t part, struct turn_record_place *out) {
    uint8_t from[TURN_KEY_BYTES];
    struct ledger_db_bytes found;
    make_turn_key(place, part, from);
    TRY(ledger_db_seek(txn, LEDGER_DB_TURN, from, sizeof from, &found, NULL));
    if (found.len != sizeof from) {
        return err_fail(ERR_FORMAT, "turn under a key of %zu bytes", found.len);
    }
    *out = (struct turn_record_place){.serial = load_big_endian(found.data, 8),
                                      .turn = (uint32_t)load_big_endian(found.data + 8, 4)};
    return ERR_OK;
}

/* Removes the parts of SERIAL, and of TURN alone if ONLY_TURN is set, up to PARTS_MAX. */
static enum err remove_parts(struct ledger_db_txn *txn, struct turn_record_place place,
                             int only_turn, size_t parts_max, int *is_done) {
    uint8_t from[TURN_KEY_BYTES];
    make_turn_key(place, 0, from);
    size_t prefix_bytes = only_turn ? 12 : 8;
    for (size_t removed = 0;; removed++) {
        struct ledger_db_bytes found;
        uint8_t key[TURN_KEY_BYTES];
        enum err code = ledger_db_seek(txn, LEDGER_DB_TURN, from, sizeof from, &found, NULL);
        if (code == ERR_NOT_FOUND ||
            (code == ERR_OK &&
             (found.len != sizeof key || memcmp(found.data, from, prefix_bytes) != 0))) {
            *is_done = 1;
            return ERR_OK;
        }
        TRY(code);
        if (removed == parts_max) {
            *is_done = 0;
            return ERR_OK;
        }
        memcpy(key, found.data, sizeof key); /* the removal may move what found points at */
        TRY(ledger_db_remove(txn, LEDGER_DB_TURN, key, sizeof key));
    }
}

enum err ledger_table_parts_remove(struct ledger_db_txn *txn, struct turn_record_place place) {
    int is_done;
    return remove_parts(txn, place, 1, SIZE_MAX, &is_done);
}

enum err ledger_table_turns_remove(struct ledger_db_txn *txn, uint64_t serial, size_t parts_max,
                                   int *is_done) {
    return remove_parts(txn, (struct turn_record_place){.serial = serial}, 0, parts_max, is_done);
}

enum err ledger_table_turn_get(struct ledger_db_txn *txn, struct turn_record_place place,
                               struct turn_record *out) {
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_table_parts_get(txn, place, &record));
    return turn_record_decode(record.data, record.len, place, out);
}

/* Lines */

/* Copies the part of the turn's ids that lies in [base_tokens, end) of the line. */
static void copy_ids(const struct turn_record *turn, uint64_t end, int32_t *line) {
    const int32_t *arrays[] = {turn->prompt_ids, turn->generated_ids, turn->closing_ids};
    const size_t counts[] = {turn->prompt_count, turn->generated_count, turn->closing_count};
    uint64_t at = turn->base_tokens;
    for (size_t i = 0; i < ARRAY_LEN(arrays) && at < end; i++) {
        uint64_t count = counts[i] < end - at ? counts[i] : end - at;
        if (count > 0) {
            memcpy(line + at, arrays[i], count * sizeof(int32_t));
        }
        at += count;
    }
}

/*
 * Fills line[0, missing) from turn LAST backwards: each turn gives what lies behind its base, and
 * the turns before it the rest.
 */
static enum err fill_line(struct ledger_db_txn *txn, struct turn_record_place last,
                          uint64_t missing, int32_t *line) {
    struct turn_record turn CLEANUP(turn_record_done) = {0};
    for (struct turn_record_place place = last; missing > 0; place.turn--) {
        if (place.turn == 0) {
            return err_fail(ERR_CORRUPT, "the line of turn %u lacks its first %llu tokens",
                            last.turn, (unsigned long long)missing);
        }
        turn_record_done(&turn);
        enum err code = ledger_table_turn_get(txn, place, &turn);
        if (code != ERR_OK) {
            return code == ERR_NOT_FOUND
                       ? err_fail(ERR_CORRUPT, "turn %u is missing in the ledger", place.turn)
                       : code;
        }
        if (turn.end_tokens < missing) {
            return err_fail(ERR_CORRUPT, "turn %u ends at token %llu, before the next one begins",
                            place.turn, (unsigned long long)turn.end_tokens);
        }
        copy_ids(&turn, missing, line);
        missing = turn.base_tokens < missing ? turn.base_tokens : missing;
    }
    return ERR_OK;
}

enum err ledger_table_line_get(struct ledger_db_txn *txn, struct turn_record_place place,
                               int32_t **ids, size_t *count) {
    struct turn_record last CLEANUP(turn_record_done) = {0};
    if (place.turn > 0) {
        TRY(ledger_table_turn_get(txn, place, &last));
    }
    assert(last.end_tokens <= TURN_RECORD_TOKENS_MAX); /* turn_record_check */
    size_t bytes = ((size_t)last.end_tokens + 1) * sizeof(int32_t);
    int32_t *line = fault_fails("ledger.alloc") ? NULL : malloc(bytes);
    if (line == NULL) {
        return err_fail(ERR_NOMEM, "line of %zu bytes", bytes);
    }
    enum err code = fill_line(txn, place, last.end_tokens, line);
    if (code == ERR_OK && place.turn > 0) {
        uint8_t digest[TOKEN_CHAIN_DIGEST_BYTES];
        token_chain_digest_of(line, (size_t)last.end_tokens, digest);
        if (memcmp(digest, last.chain_digest, sizeof digest) != 0) {
            code = err_fail(ERR_CORRUPT, "the ids up to turn %u have another chain digest",
                            place.turn);
        }
    }
    if (code != ERR_OK) {
        free(line);
        return code;
    }
    *ids = line;
    *count = (size_t)last.end_tokens;
    return ERR_OK;
}

/* Tombstones */

enum err ledger_table_tombstone_get(struct ledger_db_txn *txn, uint64_t serial,
                                    struct ledger_record_tombstone *out) {
    uint8_t key[SERIAL_KEY_BYTES];
    struct ledger_db_bytes bytes;
    store_big_endian(key, serial, 8);
    TRY(ledger_db_get(txn, LEDGER_DB_TOMBSTONE, key, sizeof key, &bytes));
    return ledger_record_decode_tombstone(bytes.data, bytes.len, serial, out);
}

enum err ledger_table_tombstone_put(struct ledger_db_txn *txn,
                                    const struct ledger_record_tombstone *tombstone) {
    uint8_t key[SERIAL_KEY_BYTES];
    struct buf record CLEANUP(buf_done);
    buf_init(&record, SMALL_RECORD_BYTES_MAX);
    store_big_endian(key, tombstone->serial, 8);
    TRY(ledger_record_encode_tombstone(tombstone, &record));
    return ledger_db_put(txn, LEDGER_DB_TOMBSTONE, key, sizeof key, record.data, record.len);
}

enum err ledger_table_tombstone_remove(struct ledger_db_txn *txn, uint64_t serial) {
    uint8_t key[SERIAL_KEY_BYTES];
    store_big_endian(key, serial, 8);
    return ledger_db_remove(txn, LEDGER_DB_TOMBSTONE, key, sizeof key);
}

enum err ledger_table_tombstone_next(struct ledger_db_txn *txn, uint64_t from,
                                     struct ledger_record_tombstone *out) {
    uint8_t key[SERIAL_KEY_BYTES];
    struct ledger_db_bytes found;
    struct ledger_db_bytes bytes;
    store_big_endian(key, from, 8);
    TRY(ledger_db_seek(txn, LEDGER_DB_TOMBSTONE, key, sizeof key, &found, &bytes));
    if (found.len != SERIAL_KEY_BYTES) {
        return err_fail(ERR_FORMAT, "tombstone under a key of %zu bytes", found.len);
    }
    return ledger_record_decode_tombstone(bytes.data, bytes.len, load_big_endian(found.data, 8),
                                          out);
}

/* Idempotency */

static void make_expiry_key(uint64_t expires_ms, const uint8_t *hash,
                            uint8_t key[EXPIRY_KEY_BYTES]) {
    store_big_endian(key, expires_ms, 8);
    memcpy(key + 8, hash, CONVERSATION_KEY_BYTES);
}

enum err ledger_table_idempotency_get(struct ledger_db_txn *txn,
                                      const struct conversation_key *hash,
                                      struct ledger_record_idempotency *out) {
    struct ledger_db_bytes bytes;
    TRY(ledger_db_get(txn, LEDGER_DB_IDEMPOTENCY, hash->bytes, CONVERSATION_KEY_BYTES, &bytes));
    return ledger_record_decode_idempotency(bytes.data, bytes.len, hash, out);
}

enum err ledger_table_expiry_find(struct ledger_db_txn *txn,
                                  const struct ledger_record_idempotency *entry) {
    uint8_t key[EXPIRY_KEY_BYTES];
    struct ledger_db_bytes value;
    make_expiry_key(entry->expires_ms, entry->hash.bytes, key);
    return ledger_db_get(txn, LEDGER_DB_EXPIRY, key, sizeof key, &value);
}

enum err ledger_table_idempotency_put(struct ledger_db_txn *txn,
                                      const struct ledger_record_idempotency *entry) {
    uint8_t key[EXPIRY_KEY_BYTES];
    struct ledger_record_idempotency old;
    enum err code = ledger_table_idempotency_get(txn, &entry->hash, &old);
    if (code == ERR_OK) { /* I2 */
        make_expiry_key(old.expires_ms, old.hash.bytes, key);
        code = ledger_db_remove(txn, LEDGER_DB_EXPIRY, key, sizeof key);
    }
    if (code != ERR_NOT_FOUND) {
        TRY(code);
    }
    struct buf record CLEANUP(buf_done);
    buf_init(&record, SMALL_RECORD_BYTES_MAX);
    TRY(ledger_record_encode_idempotency(entry, &record));
    TRY(ledger_db_put(txn, LEDGER_DB_IDEMPOTENCY, entry->hash.bytes, CONVERSATION_KEY_BYTES,
                      record.data, record.len));
    make_expiry_key(entry->expires_ms, entry->hash.bytes, key);
    return ledger_db_put(txn, LEDGER_DB_EXPIRY, key, sizeof key, "", 0);
}

enum err ledger_table_idempotency_expire(struct ledger_db_txn *txn, uint64_t now_ms,
                                         size_t entries_max, size_t *removed) {
    size_t count = 0;
    while (count < entries_max) {
        struct ledger_db_bytes found;
        uint8_t key[EXPIRY_KEY_BYTES];
        enum err code = ledger_db_seek(txn, LEDGER_DB_EXPIRY, NULL, 0, &found, NULL);
        if (code == ERR_NOT_FOUND) {
            break;
        }
        TRY(code);
        if (found.len != sizeof key) {
            return err_fail(ERR_FORMAT, "idempotency_expiry has a key of %zu bytes", found.len);
        }
        memcpy(key, found.data, sizeof key);
        if (load_big_endian(key, 8) > now_ms) {
            break;
        }
        TRY(ledger_db_remove(txn, LEDGER_DB_EXPIRY, key, sizeof key));
        code = ledger_db_remove(txn, LEDGER_DB_IDEMPOTENCY, key + 8, CONVERSATION_KEY_BYTES);
        if (code != ERR_NOT_FOUND) {
            TRY(code);
        }
        count++;
    }
    *removed = count;
    return ERR_OK;
}
