#include "store/head_plan.h"

#include "base/fault.h"
#include "store/state_table.h"

#include <stdlib.h>
#include <string.h>

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

/* Walks from the head's lineage to the root; each step's span goes to SPANS unless it is NULL. */
static enum err walk(struct state_txn *txn, const struct record_head *head, struct head_span *spans,
                     size_t *count_out) {
    uint64_t lineage = head->lineage;
    uint64_t end = head->block_count;
    size_t count = 0;
    while (lineage != 0) {
        struct record_lineage record;
        enum err code = state_table_get_lineage(txn, lineage, &record);
        if (code == ERR_FORMAT || code == ERR_UNSUPPORTED) {
            return err_context(ERR_CORRUPT, "lineage %llu", (unsigned long long)lineage);
        }
        TRY(code);
        if (memcmp(record.state_digest, head->key.state_digest, RECORD_DIGEST_BYTES) != 0) {
            return err_fail(ERR_CORRUPT, "state: lineage %llu is of another model than its head",
                            (unsigned long long)lineage);
        }
        /* A head may end below its lineage's first block: it was forked off and never grew. */
        uint64_t first = record.first_block < end ? record.first_block : end;
        if (record.end_block < end && first < end) {
            return err_fail(ERR_NOT_FOUND,
                            "state: lineage %llu holds blocks up to %llu, the head "
                            "needs %llu",
                            (unsigned long long)lineage, (unsigned long long)record.end_block,
                            (unsigned long long)end);
        }
        if (count == HEAD_PLAN_LINEAGES_MAX) {
            return err_fail(ERR_CORRUPT, "state: more than %d lineages under a head",
                            HEAD_PLAN_LINEAGES_MAX);
        }
        if (spans != NULL) {
            spans[count] = (struct head_span){.lineage = lineage, .first = first, .end = end};
        }
        count++;
        end = first;
        lineage = record.parent; /* always smaller: record_lineage_decode has checked it */
    }
    if (end != 0) {
        return err_fail(ERR_CORRUPT, "state: the first %llu blocks of a head have no lineage",
                        (unsigned long long)end);
    }
    *count_out = count;
    return ERR_OK;
}

enum err head_plan_check(struct state_txn *txn, const struct record_head *head) {
    size_t count;
    return walk(txn, head, NULL, &count);
}

enum err head_plan_create(struct state_env *env, const struct record_head *head,
                          struct head_plan **out) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    return head_plan_create_in(txn, head, out);
}

enum err head_plan_create_in(struct state_txn *txn, const struct record_head *head,
                             struct head_plan **out) {
    size_t count = 0;
    TRY(walk(txn, head, NULL, &count));
    struct head_plan *plan = fault_fails("head_plan.alloc") ? NULL : calloc(1, sizeof *plan);
    if (plan != NULL) {
        plan->spans = fault_fails("head_plan.alloc") ? NULL : calloc(count, sizeof *plan->spans);
    }
    if (plan == NULL || plan->spans == NULL) {
        head_plan_destroy(plan);
        return err_fail(ERR_NOMEM, "state: no memory for the plan of a head");
    }
    plan->head = *head;
    enum err code = walk(txn, head, plan->spans, &plan->span_count);
    if (code != ERR_OK) {
        head_plan_destroy(plan);
        return code;
    }
    *out = plan;
    return ERR_OK;
}

void head_plan_destroy(struct head_plan *plan) {
    if (plan != NULL) {
        free(plan->spans);
        free(plan);
    }
}

struct record_object_key head_plan_block(const struct head_plan *plan, uint64_t index) {
    assert(index < plan->head.block_count);
    size_t i = 0;
    while (index < plan->spans[i].first) {
        i++;
        assert(i < plan->span_count);
    }
    return (struct record_object_key){
        .part = RECORD_BLOCK, .lineage = plan->spans[i].lineage, .index = index};
}

struct record_object_key head_plan_tail(const struct head_plan *plan) {
    return (struct record_object_key){.part = record_tail_part(plan->head.key.kind),
                                      .lineage = plan->head.lineage,
                                      .index = plan->head.key.turn};
}

struct record_object_key head_plan_state(const struct head_plan *plan) {
    return (struct record_object_key){.part = record_state_part(plan->head.key.kind),
                                      .lineage = plan->head.lineage,
                                      .index = plan->head.key.turn};
}
