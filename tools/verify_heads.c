/*
 * I1. A turn is in the ledger before its head is published, and a deleted conversation keeps its
 *     tombstone until its heads are removed. So a head whose owner was not met, and which is still
 *     there afterwards, has none.
 */
#include "tools/verify_heads.h"

#include "store/state_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum err verify_heads_begin(struct verify_heads *heads, struct verify_findings *findings) {
    *heads = (struct verify_heads){
        .findings = findings,
        .heads = calloc(VERIFY_HEADS_WINDOW, sizeof *heads->heads),
        .is_owned = calloc(VERIFY_HEADS_WINDOW, 1),
    };
    return heads->heads != NULL && heads->is_owned != NULL
               ? ERR_OK
               : err_fail(ERR_NOMEM, "no memory for a window of heads");
}

void verify_heads_done(struct verify_heads *heads) {
    free(heads->heads);
    free(heads->is_owned);
    *heads = (struct verify_heads){.count = 0};
}

static int compare_heads(const void *left, const void *right) {
    const struct record_head *a = left;
    const struct record_head *b = right;
    return memcmp(a->key.conversation, b->key.conversation, sizeof a->key.conversation);
}

/* Tells of a head that is still the one that was collected. */
static enum err tell(const struct verify_heads *heads, const struct record_head *head,
                     const char *verdict, const char *detail) {
    struct state_audit_finding finding = {
        .record = "head", .verdict = verdict, .has_conversation = 1, .turn = head->key.turn};
    struct state_txn *txn;
    struct record_head now;
    TRY(state_env_begin_read(heads->findings->view->state, &txn));
    enum err code = state_table_get_head(txn, &head->key, &now);
    state_env_abort(txn);
    if (code != ERR_OK || now.created_ms != head->created_ms || now.lineage != head->lineage) {
        return code == ERR_IO ? code : ERR_OK;
    }
    memcpy(finding.conversation, head->key.conversation, sizeof finding.conversation);
    snprintf(finding.detail, sizeof finding.detail, "%s", detail);
    return verify_findings_of_state(heads->findings, &finding);
}

static enum err judge(const struct verify_heads *heads, const struct record_head *head,
                      const struct ledger_walk_owner *owner) {
    struct turn_record turn;
    char detail[128];
    enum err code = head->key.turn <= UINT32_MAX
                        ? ledger_turn_read(heads->findings->view->ledger, &owner->key,
                                           owner->serial, (uint32_t)head->key.turn, &turn)
                        : ERR_NOT_FOUND;
    if (code == ERR_CORRUPT || code == ERR_FORMAT || code == ERR_UNSUPPORTED) {
        return ERR_OK; /* the ledger's own finding */
    }
    if (code == ERR_NOT_FOUND) {
        struct conversation_record conversation;
        code = ledger_conversation_read(heads->findings->view->ledger, &owner->key, &conversation);
        if (code != ERR_OK) {
            return code == ERR_NOT_FOUND ? ERR_OK : code; /* deleted meanwhile */
        }
        int is_same = conversation.serial == owner->serial;
        snprintf(detail, sizeof detail, "the ledger does not have its turn: the last one is %u",
                 conversation.turn);
        turn_record_conversation_done(&conversation);
        return is_same ? tell(heads, head, "unknown-turn", detail) : ERR_OK;
    }
    TRY(code);
    int is_turn_end = head->key.kind == RECORD_TURN_END;
    uint64_t length = is_turn_end ? turn.end_tokens - turn.pending_tokens : turn.prompt_end_tokens;
    int is_equal =
        length == head->length && memcmp(is_turn_end ? turn.head_digest : turn.prompt_end_digest,
                                         head->chain_digest, sizeof turn.head_digest) == 0;
    turn_record_done(&turn);
    snprintf(detail, sizeof detail,
             "%" PRIu64 " tokens; the turn in the ledger has other tokens, %" PRIu64 " of them",
             head->length, length);
    return is_equal ? ERR_OK : tell(heads, head, "wrong-chain", detail);
}

static enum err meet_owner(void *context, const struct ledger_walk_owner *owner) {
    struct verify_heads *heads = context;
    struct record_head wanted;
    state_key_make(&owner->key, owner->serial, wanted.key.conversation);
    const struct record_head *found =
        bsearch(&wanted, heads->heads, heads->count, sizeof wanted, compare_heads);
    if (found == NULL) {
        return ERR_OK;
    }
    size_t at = (size_t)(found - heads->heads);
    while (at > 0 && compare_heads(&heads->heads[at - 1], &wanted) == 0) {
        at--;
    }
    for (; at < heads->count && compare_heads(&heads->heads[at], &wanted) == 0; at++) {
        if (!heads->is_owned[at] && owner->conversation != NULL) {
            TRY(judge(heads, &heads->heads[at], owner));
        }
        heads->is_owned[at] = 1;
    }
    return ERR_OK;
}

enum err verify_heads_flush(struct verify_heads *heads) {
    if (heads->count == 0) {
        return ERR_OK;
    }
    qsort(heads->heads, heads->count, sizeof *heads->heads, compare_heads);
    memset(heads->is_owned, 0, heads->count);
    TRY(ledger_walk_each_owner(heads->findings->view->ledger, meet_owner, heads));
    for (size_t i = 0; i < heads->count; i++) {
        if (!heads->is_owned[i]) { /* I1 */
            TRY(tell(heads, &heads->heads[i], "orphan", "the ledger has no such conversation"));
        }
    }
    heads->count = 0;
    return ERR_OK;
}

enum err verify_heads_add(struct verify_heads *heads, const struct record_head *head) {
    heads->heads[heads->count++] = *head;
    return heads->count == VERIFY_HEADS_WINDOW ? verify_heads_flush(heads) : ERR_OK;
}
