/*
 * Where a head's blocks lie along its lineages in the state environment: made once a head, then
 * shared by whoever reads it. It doesn't outlive its environment; unchanging, any thread.
 */
#ifndef TERN_STORE_HEAD_PLAN_H
#define TERN_STORE_HEAD_PLAN_H

#include "store/record.h"
#include "store/state_env.h"

enum { HEAD_PLAN_LINEAGES_MAX = 1024 }; /* from a head's lineage to its root */

/* Blocks [first, end) lie under LINEAGE. */
struct head_span {
    uint64_t lineage;
    uint64_t first;
    uint64_t end;
};

struct head_plan {
    struct record_head head;
    struct head_span *spans; /* from the head's own lineage to the root; owned */
    size_t span_count;
};

/* ERR_NOT_FOUND if a lineage is gone or lacks blocks that the head needs; ERR_CORRUPT if a lineage
 * record is refused or of another model. */
MUST_USE enum err head_plan_create(struct state_env *env, const struct record_head *head,
                                   struct head_plan **out);
/* The same within TXN. */
MUST_USE enum err head_plan_create_in(struct state_txn *txn, const struct record_head *head,
                                      struct head_plan **out);
void head_plan_destroy(struct head_plan *plan); /* accepts NULL */

/* The same check without the result, within TXN. */
MUST_USE enum err head_plan_check(struct state_txn *txn, const struct record_head *head);

/* The key of a block of the head. INDEX < head.block_count: asserted. */
struct record_object_key head_plan_block(const struct head_plan *plan, uint64_t index);
struct record_object_key head_plan_tail(const struct head_plan *plan);
struct record_object_key head_plan_state(const struct head_plan *plan);

#endif
