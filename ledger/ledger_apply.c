/*
 * I1. A conversation record exists exactly while the conversation may be served; it names the
 *     serial under which its turns lie. Deleting removes it and sets the tombstone of that serial
 * in one transaction, so turns are never reached without it, and never lost without a tombstone.
 * I2. Serials rise and are never given out twice: next_serial is written with each creation.
 * I3. The chain in the conversation record is that of the line after its turn; turn `turn` carries
 *     the same digest. Both are written in one transaction.
 */
#include "ledger/ledger_apply.h"

#include "base/fault.h"
#include "base/now.h"
#include "ledger/fork_apply.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* Copied pages of a commit: five tables and the free list, each with a path of at most four. */
    OVERHEAD_PAGES = 24,
    EXPIRE_ENTRIES_MAX = 1024,
};

static const uint8_t no_hash[CONVERSATION_KEY_BYTES];

void ledger_apply_init(struct ledger_apply *apply, enum ledger_apply_kind kind) {
    *apply = (struct ledger_apply){.kind = kind};
    buf_init(&apply->staged.turn, TURN_RECORD_BYTES_MAX);
    buf_init(&apply->staged.dialect, TURN_RECORD_BYTES_MAX);
    buf_init(&apply->staged.conversation, LEDGER_TABLE_PART_BYTES);
}

void ledger_apply_done(struct ledger_apply *apply) {
    buf_done(&apply->staged.turn);
    buf_done(&apply->staged.dialect);
    buf_done(&apply->staged.conversation);
}

uint64_t ledger_apply_pages(uint64_t bytes) {
    return bytes / LEDGER_TABLE_PART_BYTES + 1 + OVERHEAD_PAGES;
}

int ledger_apply_lease(const struct ledger_apply *apply, const struct conversation_key **key,
                       uint64_t *generation) {
    if (apply->kind == LEDGER_APPLY_APPEND) {
        *key = &apply->append->key;
        *generation = apply->append->generation;
        return 1;
    }
    if (apply->kind == LEDGER_APPLY_FORK) {
        *key = &apply->fork->key;
        *generation = apply->fork->generation;
        return 1;
    }
    return 0;
}

static int has_idempotency(const struct turn_record *turn) {
    return memcmp(turn->idempotency_hash, no_hash, sizeof no_hash) != 0;
}

/* Appending */

/* The caller's turn with the fields that the ledger sets, but for the digests. */
static struct turn_record complete_turn(const struct ledger_append *request) {
    struct turn_record turn = *request->turn;
    turn.turn = request->expected_turn + 1;
    turn.end_tokens =
        turn.base_tokens + turn.prompt_count + turn.generated_count + turn.closing_count;
    turn.generation = request->generation;
    turn.storage = NULL;
    return turn;
}

enum err ledger_apply_validate(const struct ledger_append *request) {
    if (request->expected_turn == UINT32_MAX) {
        return err_fail(ERR_INVALID, "a conversation cannot have another turn");
    }
    struct turn_record turn = complete_turn(request);
    if (turn_record_check(&turn) != ERR_OK) {
        return err_context(ERR_INVALID, "turn to be appended");
    }
    if (request->expected_turn == 0 && turn.base_tokens != 0) {
        return err_fail(ERR_INVALID, "the first turn begins at token %llu instead of 0",
                        (unsigned long long)turn.base_tokens);
    }
    const struct conversation_identity *identity = &request->identity;
    if (identity->tenant_bytes > CONVERSATION_KEY_PART_BYTES_MAX ||
        identity->salt_bytes > CONVERSATION_KEY_PART_BYTES_MAX ||
        identity->id_bytes > CONVERSATION_KEY_PART_BYTES_MAX) {
        return err_fail(ERR_INVALID, "a conversation's name has parts of at most %d bytes",
                        CONVERSATION_KEY_PART_BYTES_MAX);
    }
    if (request->dialect_bytes > TURN_RECORD_BYTES_MAX / 2) {
        return err_fail(ERR_INVALID, "dialect of %zu bytes", request->dialect_bytes);
    }
    return ERR_OK;
}

/* The conversation as it is, or as it would begin; *is_created tells which. */
static enum err load_conversation(const struct ledger_append *request, struct ledger_db_txn *txn,
                                  struct conversation_record *out, int *is_created) {
    enum err code = ledger_table_conversation_get(txn, &request->key, out);
    if (code == ERR_OK) {
        *is_created = 0;
        return ERR_OK;
    }
    if (code != ERR_NOT_FOUND) {
        return code;
    }
    if (request->expected_turn != 0) {
        return err_fail(ERR_NOT_FOUND, "no such conversation, turn %u was expected",
                        request->expected_turn);
    }
    struct ledger_record_mark mark;
    TRY(ledger_table_mark_get(txn, &mark));
    *out = (struct conversation_record){
        .key = request->key,
        .serial = mark.next_serial,
        .created_ms = now_wall_ms(),
        .identity = request->identity,
    };
    *is_created = 1;
    return ERR_OK;
}

static enum err check_order(const struct ledger_append *request,
                            const struct conversation_record *conversation) {
    if (conversation->turn != request->expected_turn) {
        return err_fail(ERR_CONFLICT, "the committed turn is %u, turn %u was expected",
                        conversation->turn, request->expected_turn);
    }
    if (request->generation < conversation->generation) {
        return err_fail(ERR_CONFLICT, "generation %llu is stale, %llu has appended",
                        (unsigned long long)request->generation,
                        (unsigned long long)conversation->generation);
    }
    const struct turn_record *turn = request->turn;
    if (turn->base_tokens > conversation->chain.length_tokens) {
        return err_fail(ERR_INVALID, "turn begins at token %llu of a line of %llu",
                        (unsigned long long)turn->base_tokens,
                        (unsigned long long)conversation->chain.length_tokens);
    }
    if (turn->base_tokens == conversation->chain.length_tokens &&
        turn->parent_turn != request->expected_turn) {
        return err_fail(ERR_INVALID, "turn continues the line of turn %u but has the parent %u",
                        request->expected_turn, turn->parent_turn);
    }
    return ERR_OK;
}

static enum err check_idempotency(const struct ledger_append *request, struct ledger_db_txn *txn) {
    if (!has_idempotency(request->turn)) {
        return ERR_OK;
    }
    struct conversation_key hash;
    struct ledger_record_idempotency entry;
    memcpy(hash.bytes, request->turn->idempotency_hash, sizeof hash.bytes);
    enum err code = ledger_table_idempotency_get(txn, &hash, &entry);
    if (code == ERR_NOT_FOUND) {
        return ERR_OK;
    }
    TRY(code);
    if (entry.expires_ms <= now_wall_ms()) {
        return ERR_OK;
    }
    struct conversation_record conversation;
    code = ledger_table_conversation_same(txn, &entry.key, entry.serial, &conversation);
    if (code == ERR_NOT_FOUND) {
        return ERR_OK; /* deleted: the key may be used again */
    }
    TRY(code);
    turn_record_conversation_done(&conversation);
    return err_fail(ERR_CONFLICT, "the idempotency key was committed with turn %u", entry.turn);
}

/* Cuts the chain at the turn's base: the rest of the line is replaced. */
static enum err cut_chain(const struct turn_record *turn, struct ledger_db_txn *txn,
                          struct conversation_record *conversation) {
    if (turn->base_tokens == conversation->chain.length_tokens) {
        return ERR_OK;
    }
    int32_t *ids CLEANUP(object_free) = NULL;
    size_t count;
    struct turn_record_place place = {conversation->serial, conversation->turn};
    if (turn->parent_turn > 0) {
        struct turn_record parent;
        struct turn_record_place parent_place = {conversation->serial, turn->parent_turn};
        TRY(ledger_table_turn_get(txn, parent_place, &parent));
        uint64_t parent_end = parent.end_tokens;
        turn_record_done(&parent);
        if (parent_end > turn->base_tokens) {
            return err_fail(ERR_INVALID, "parent turn %u ends at token %llu, behind the base %llu",
                            turn->parent_turn, (unsigned long long)parent_end,
                            (unsigned long long)turn->base_tokens);
        }
    }
    token_chain_init(&conversation->chain);
    if (turn->base_tokens > 0) {
        TRY(ledger_table_line_get(txn, place, &ids, &count));
        token_chain_extend(&conversation->chain, ids, (size_t)turn->base_tokens);
    }
    return ERR_OK;
}

/* Extends CHAIN by those of the turn's ids that lie before END on the line. */
static void extend_chain(const struct turn_record *turn, uint64_t end, struct token_chain *chain) {
    const int32_t *arrays[] = {turn->prompt_ids, turn->generated_ids, turn->closing_ids};
    const size_t counts[] = {turn->prompt_count, turn->generated_count, turn->closing_count};
    for (size_t i = 0; i < ARRAY_LEN(arrays) && chain->length_tokens < end; i++) {
        uint64_t left = end - chain->length_tokens;
        token_chain_extend(chain, arrays[i], counts[i] < left ? counts[i] : (size_t)left);
    }
}

/* The three digests of the turn; CHAIN, at its base before, is at its end after. */
static void set_digests(struct turn_record *turn, struct token_chain *chain) {
    struct token_chain part = *chain;
    extend_chain(turn, turn->end_tokens - turn->pending_tokens, &part);
    token_chain_digest(&part, turn->head_digest);
    memset(turn->prompt_end_digest, 0, sizeof turn->prompt_end_digest);
    if (turn->prompt_end_tokens != 0) {
        part = *chain;
        extend_chain(turn, turn->prompt_end_tokens, &part);
        token_chain_digest(&part, turn->prompt_end_digest);
    }
    extend_chain(turn, turn->end_tokens, chain);
    assert(chain->length_tokens == turn->end_tokens); /* I3 */
    token_chain_digest(chain, turn->chain_digest);
}

static enum err stage_append(struct ledger_apply *apply, struct conversation_record *conversation,
                             int is_created) {
    const struct ledger_append *request = apply->append;
    struct turn_record turn = complete_turn(request);
    turn.committed_ms = now_wall_ms();
    set_digests(&turn, &conversation->chain);
    conversation->turn = turn.turn;
    conversation->generation = request->generation;
    conversation->updated_ms = turn.committed_ms;
    conversation->expires_ms = request->expires_ms;
    conversation->pending_tokens = turn.pending_tokens;
    conversation->flags = request->flags;
    buf_clear(&apply->staged.turn);
    buf_clear(&apply->staged.dialect);
    buf_clear(&apply->staged.conversation);
    apply->staged.is_dialect_replaced = turn.base_tokens == 0 && !is_created;
    if (turn.base_tokens == 0) {
        memcpy(conversation->dialect_digest, request->dialect_digest, TURN_RECORD_DIGEST_BYTES);
        TRY(turn_record_encode_dialect(request->dialect, request->dialect_bytes,
                                       conversation->serial, &apply->staged.dialect));
    }
    TRY(turn_record_encode(&turn, conversation->serial, &apply->staged.turn));
    TRY(turn_record_encode_conversation(conversation, &apply->staged.conversation));
    apply->appended = (struct ledger_appended){
        .serial = conversation->serial,
        .turn = turn.turn,
        .is_created = is_created,
        .end_tokens = turn.end_tokens,
        .committed_ms = turn.committed_ms,
    };
    memcpy(apply->appended.chain_digest, turn.chain_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(apply->appended.head_digest, turn.head_digest, TOKEN_CHAIN_DIGEST_BYTES);
    memcpy(apply->appended.prompt_end_digest, turn.prompt_end_digest, TOKEN_CHAIN_DIGEST_BYTES);
    return ERR_OK;
}

static enum err check_append(struct ledger_apply *apply, struct ledger_db_txn *txn,
                             uint64_t pages_left, uint64_t *pages) {
    struct conversation_record conversation CLEANUP(turn_record_conversation_done) = {.storage =
                                                                                          NULL};
    int is_created = 0;
    TRY(load_conversation(apply->append, txn, &conversation, &is_created));
    TRY(check_order(apply->append, &conversation));
    TRY(check_idempotency(apply->append, txn));
    TRY(cut_chain(apply->append->turn, txn, &conversation));
    TRY(stage_append(apply, &conversation, is_created));
    uint64_t needed = ledger_apply_pages(apply->staged.turn.len + apply->staged.dialect.len);
    if (needed > pages_left) {
        return err_fail(ERR_FULL, "the ledger has room for %llu pages, the turn may need %llu",
                        (unsigned long long)pages_left, (unsigned long long)needed);
    }
    *pages = needed;
    return ERR_OK;
}

static enum err write_idempotency(const struct ledger_apply *apply, struct ledger_db_txn *txn) {
    const struct turn_record *turn = apply->append->turn;
    if (!has_idempotency(turn)) {
        return ERR_OK;
    }
    struct ledger_record_idempotency entry = {
        .key = apply->append->key,
        .serial = apply->appended.serial,
        .expires_ms = apply->append->idempotency_expires_ms,
        .turn = apply->appended.turn,
    };
    memcpy(entry.hash.bytes, turn->idempotency_hash, CONVERSATION_KEY_BYTES);
    memcpy(entry.request_digest, turn->request_digest, TURN_RECORD_DIGEST_BYTES);
    return ledger_table_idempotency_put(txn, &entry);
}

static enum err write_append(struct ledger_apply *apply, struct ledger_db_txn *txn) {
    const struct ledger_appended *appended = &apply->appended;
    struct turn_record_place place = {appended->serial, appended->turn};
    struct turn_record_place dialect_place = {appended->serial, 0};
    if (appended->is_created) { /* I2 */
        TRY(ledger_table_serial_use(txn, appended->serial));
    }
    if (apply->staged.is_dialect_replaced) {
        TRY(ledger_table_parts_remove(txn, dialect_place));
    }
    if (apply->staged.dialect.len > 0) {
        TRY(ledger_table_parts_put(txn, dialect_place, &apply->staged.dialect));
    }
    TRY(ledger_table_parts_put(txn, place, &apply->staged.turn));
    FAULT_KILL("ledger.append.turn_put");
    TRY(ledger_table_conversation_put(txn, &apply->append->key, &apply->staged.conversation));
    return write_idempotency(apply, txn);
}

/* The others */

static enum err check_delete(struct ledger_apply *apply, struct ledger_db_txn *txn) {
    struct conversation_record conversation;
    TRY(ledger_table_conversation_get(txn, &apply->key, &conversation));
    apply->serial = conversation.serial;
    turn_record_conversation_done(&conversation);
    return ERR_OK;
}

static enum err write_delete(const struct ledger_apply *apply, struct ledger_db_txn *txn) {
    struct ledger_record_tombstone tombstone = {
        .serial = apply->serial, .key = apply->key, .deleted_ms = now_wall_ms()};
    TRY(ledger_table_tombstone_put(txn, &tombstone));
    FAULT_KILL("ledger.delete.tombstone_put");
    return ledger_table_conversation_remove(txn, &apply->key); /* I1 */
}

static enum err check_tombstone_remove(const struct ledger_apply *apply,
                                       struct ledger_db_txn *txn) {
    struct ledger_record_tombstone tombstone;
    TRY(ledger_table_tombstone_get(txn, apply->serial, &tombstone));
    if (!tombstone.turns_are_removed) {
        return err_fail(ERR_BUSY, "the turns of serial %llu are still being removed",
                        (unsigned long long)apply->serial);
    }
    return ERR_OK;
}

enum err ledger_apply_check(struct ledger_apply *apply, struct ledger_db_txn *txn,
                            uint64_t pages_left, uint64_t *pages) {
    *pages = OVERHEAD_PAGES;
    switch (apply->kind) {
    case LEDGER_APPLY_APPEND:
        return check_append(apply, txn, pages_left, pages);
    case LEDGER_APPLY_FORK:
        return fork_apply_check(apply, txn, pages_left, pages);
    case LEDGER_APPLY_DELETE:
        return check_delete(apply, txn);
    case LEDGER_APPLY_TOMBSTONE_REMOVE:
        return check_tombstone_remove(apply, txn);
    case LEDGER_APPLY_EXPIRE:
        return ERR_OK;
    }
    return err_fail(ERR_INVALID, "commit of kind %d", (int)apply->kind);
}

enum err ledger_apply_write(struct ledger_apply *apply, struct ledger_db_txn *txn) {
    switch (apply->kind) {
    case LEDGER_APPLY_APPEND:
        return write_append(apply, txn);
    case LEDGER_APPLY_FORK:
        return fork_apply_write(apply, txn);
    case LEDGER_APPLY_DELETE:
        return write_delete(apply, txn);
    case LEDGER_APPLY_TOMBSTONE_REMOVE:
        return ledger_table_tombstone_remove(txn, apply->serial);
    case LEDGER_APPLY_EXPIRE:
        return ledger_table_idempotency_expire(txn, apply->now_ms, EXPIRE_ENTRIES_MAX,
                                               &apply->removed);
    }
    return err_fail(ERR_INVALID, "commit of kind %d", (int)apply->kind);
}
