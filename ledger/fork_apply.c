#include "ledger/fork_apply.h"

#include "base/now.h"

#include <string.h>

/* The pages that copies of the source's dialect and turns may take. */
static enum err count_pages(const struct ledger_fork *fork, struct ledger_db_txn *txn,
                            uint64_t *pages) {
    struct buf record CLEANUP(buf_done);
    uint64_t bytes = 0;
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    struct turn_record_place place = {.serial = fork->source_serial};
    for (; place.turn <= fork->source_turn; place.turn++) {
        TRY(ledger_table_parts_get(txn, place, &record));
        bytes += record.len + LEDGER_TABLE_PART_BYTES; /* the last part may be short */
    }
    *pages = ledger_apply_pages(bytes);
    return ERR_OK;
}

static enum err check_names(const struct ledger_fork *fork, struct ledger_db_txn *txn) {
    struct conversation_record found;
    enum err code = ledger_table_conversation_get(txn, &fork->key, &found);
    if (code == ERR_OK) {
        turn_record_conversation_done(&found);
        return err_fail(ERR_CONFLICT, "the conversation to fork into exists");
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    TRY(ledger_table_conversation_same(txn, &fork->source, fork->source_serial, &found));
    uint32_t last = found.turn;
    turn_record_conversation_done(&found);
    if (fork->source_turn == 0 || fork->source_turn > last) {
        return err_fail(ERR_NOT_FOUND, "the conversation has no turn %u, its last is %u",
                        fork->source_turn, last);
    }
    return ERR_OK;
}

/* Encodes the new conversation's record, and fills in the result. */
static enum err stage(struct ledger_apply *apply, struct ledger_db_txn *txn) {
    const struct ledger_fork *fork = apply->fork;
    struct ledger_record_mark mark;
    struct conversation_record source CLEANUP(turn_record_conversation_done) = {.storage = NULL};
    struct turn_record turn CLEANUP(turn_record_done) = {.storage = NULL};
    int32_t *ids CLEANUP(object_free) = NULL;
    size_t count = 0;
    struct turn_record_place place = {fork->source_serial, fork->source_turn};
    TRY(ledger_table_mark_get(txn, &mark));
    TRY(ledger_table_conversation_get(txn, &fork->source, &source));
    TRY(ledger_table_turn_get(txn, place, &turn));
    TRY(ledger_table_line_get(txn, place, &ids, &count));
    uint64_t now_ms = now_wall_ms();
    struct conversation_record made = {
        .key = fork->key,
        .serial = mark.next_serial,
        .generation = fork->generation,
        .created_ms = now_ms,
        .updated_ms = now_ms,
        .expires_ms = fork->expires_ms,
        .turn = fork->source_turn,
        .pending_tokens = turn.pending_tokens,
        .flags = fork->flags,
        .identity = fork->identity,
        .extension = source.extension,
        .extension_bytes = source.extension_bytes,
    };
    memcpy(made.dialect_digest, source.dialect_digest, sizeof made.dialect_digest);
    token_chain_init(&made.chain);
    token_chain_extend(&made.chain, ids, count);
    buf_clear(&apply->staged.conversation);
    TRY(turn_record_encode_conversation(&made, &apply->staged.conversation));
    apply->appended = (struct ledger_appended){
        .serial = made.serial,
        .turn = made.turn,
        .is_created = 1,
        .end_tokens = count,
        .committed_ms = now_ms,
    };
    memcpy(apply->appended.chain_digest, turn.chain_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(apply->appended.head_digest, turn.head_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(apply->appended.prompt_end_digest, turn.prompt_end_digest, TOKEN_CHAIN_DIGEST_BYTES);
    return ERR_OK;
}

enum err fork_apply_check(struct ledger_apply *apply, struct ledger_db_txn *txn,
                          uint64_t pages_left, uint64_t *pages) {
    uint64_t needed;
    TRY(check_names(apply->fork, txn));
    TRY(count_pages(apply->fork, txn, &needed));
    if (needed > pages_left) {
        return err_fail(ERR_FULL, "the ledger has room for %llu pages, the fork may need %llu",
                        (unsigned long long)pages_left, (unsigned long long)needed);
    }
    TRY(stage(apply, txn));
    *pages = needed;
    return ERR_OK;
}

/* A copy is encoded anew: a record's checksum covers its place. */
static enum err copy_turn(struct ledger_db_txn *txn, struct turn_record_place from,
                          uint64_t to_serial) {
    struct turn_record turn CLEANUP(turn_record_done) = {.storage = NULL};
    struct buf record CLEANUP(buf_done);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_table_turn_get(txn, from, &turn));
    memset(turn.idempotency_hash, 0, sizeof turn.idempotency_hash);
    TRY(turn_record_encode(&turn, to_serial, &record));
    return ledger_table_parts_put(txn, (struct turn_record_place){to_serial, from.turn}, &record);
}

static enum err copy_dialect(struct ledger_db_txn *txn, uint64_t from_serial, uint64_t to_serial) {
    struct buf source CLEANUP(buf_done);
    struct buf record CLEANUP(buf_done);
    const uint8_t *text;
    size_t text_bytes;
    buf_init(&source, TURN_RECORD_BYTES_MAX);
    buf_init(&record, TURN_RECORD_BYTES_MAX);
    TRY(ledger_table_parts_get(txn, (struct turn_record_place){from_serial, 0}, &source));
    TRY(turn_record_decode_dialect(source.data, source.len, from_serial, &text, &text_bytes));
    TRY(turn_record_encode_dialect(text, text_bytes, to_serial, &record));
    return ledger_table_parts_put(txn, (struct turn_record_place){to_serial, 0}, &record);
}

enum err fork_apply_write(struct ledger_apply *apply, struct ledger_db_txn *txn) {
    const struct ledger_fork *fork = apply->fork;
    uint64_t serial = apply->appended.serial;
    TRY(ledger_table_serial_use(txn, serial));
    TRY(copy_dialect(txn, fork->source_serial, serial));
    struct turn_record_place place = {fork->source_serial, 1};
    for (; place.turn <= fork->source_turn; place.turn++) {
        TRY(copy_turn(txn, place, serial));
    }
    return ledger_table_conversation_put(txn, &fork->key, &apply->staged.conversation);
}
