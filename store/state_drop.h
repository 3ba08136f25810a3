/*
 * How things leave the state environment. A head is dropped by removing its record and listing its
 * objects, and the blocks that nothing covers any more, as garbage; garbage is collected in steps
 * of bounded size. So whatever is dropped is invisible at once, and each transaction stays small.
 *
 * All functions run in a write transaction of the caller, which aborts it on an error.
 */
#ifndef TERN_STORE_STATE_DROP_H
#define TERN_STORE_STATE_DROP_H

#include "store/state_table.h"

/* Lists objects [first, end) to be removed, together with what is listed from the same first on. */
MUST_USE enum err state_drop_list(struct state_txn *txn, const struct record_garbage *garbage);

/* Takes an entry off the list, whatever its end. */
MUST_USE enum err state_drop_unlist(struct state_txn *txn, const struct record_garbage *garbage);

/* Drops one head, and of its lineage and the parents what is covered by nothing else. */
MUST_USE enum err state_drop_head(struct state_txn *txn, const struct record_head *head);

/* The same for a head whose record was already written over by another one of the same key. */
MUST_USE enum err state_drop_replaced(struct state_txn *txn, const struct record_head *head);

/* Cuts the lineage's stored blocks at END: a block there is bad. Heads of the lineage that need
 * it are dropped. ERR_OK if the lineage is gone or shorter. */
MUST_USE enum err state_drop_blocks(struct state_txn *txn, uint64_t lineage, uint64_t end);

/* Drops all heads and lineages of a conversation, up to STATE_DROP_LINEAGES_MAX lineages; what
 * another conversation's lineages are built on stays, without the conversation's name.
 * *is_done_out tells whether nothing is left. */
enum { STATE_DROP_LINEAGES_MAX = 256 };
MUST_USE enum err state_drop_conversation(struct state_txn *txn, const uint8_t *conversation,
                                          int *is_done_out);

struct state_drop_step {
    uint64_t lineage;   /* only its garbage; 0: all */
    uint64_t bytes_max; /* stops after about as many */
};

struct state_drop_result {
    uint64_t freed_bytes; /* whole pages */
    uint64_t entries;     /* taken off the list */
    int is_done;          /* no such garbage is left */
};

/* Removes listed objects. */
MUST_USE enum err state_drop_collect(struct state_txn *txn, const struct state_drop_step *step,
                                     struct state_drop_result *out);

/* Runs one such step in a transaction of its own. */
MUST_USE enum err state_drop_collect_step(struct state_env *env, const struct state_drop_step *step,
                                          struct state_drop_result *out);

#endif
