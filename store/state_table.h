/*
 * Typed access to the state environment within a transaction: the format record, heads, lineages
 * and their links. Each call is one or a few accesses by key; what lives and dies is decided in
 * state_drop and spiller.
 *
 * Functions that write need a write transaction. After an error other than ERR_NOT_FOUND the
 * caller aborts it.
 */
#ifndef TERN_STORE_STATE_TABLE_H
#define TERN_STORE_STATE_TABLE_H

#include "store/record.h"
#include "store/state_env.h"

/* ERR_NOT_FOUND in an environment that was just made. */
MUST_USE enum err state_table_get_format(struct state_txn *txn, struct record_format *out);
MUST_USE enum err state_table_put_format(struct state_txn *txn, const struct record_format *format);

/* --- heads: ERR_CORRUPT, ERR_FORMAT or ERR_UNSUPPORTED if the record is refused ------------ */

MUST_USE enum err state_table_get_head(struct state_txn *txn, const struct record_head_key *key,
                                       struct record_head *out);
MUST_USE enum err state_table_put_head(struct state_txn *txn, const struct record_head *head);
MUST_USE enum err state_table_remove_head(struct state_txn *txn, const struct record_head_key *key);

/* Removes every head record of a conversation, sound or not. */
MUST_USE enum err state_table_remove_heads(struct state_txn *txn, const uint8_t *conversation);

enum { STATE_TABLE_HEADS_MAX = 64 };

/*
 * The newest sound heads of BELOW's conversation, state digest and kind whose turn is at most
 * below->turn, newest first, up to MAX of them. *refused_out, if not NULL, counts records that
 * were skipped because they are refused.
 */
MUST_USE enum err state_table_list_heads(struct state_txn *txn, const struct record_head_key *below,
                                         struct record_head *heads, size_t max, size_t *count_out,
                                         size_t *refused_out);

/* Calls VISIT for every sound head of a conversation, of all models and kinds. VISIT returns an
 * error to stop. The heads must not be changed meanwhile. */
MUST_USE enum err state_table_each_head(struct state_txn *txn, const uint8_t *conversation,
                                        enum err (*visit)(void *context,
                                                          const struct record_head *head),
                                        void *context);

/* --- lineages --------------------------------------------------------------------------- */

MUST_USE enum err state_table_get_lineage(struct state_txn *txn, uint64_t lineage,
                                          struct record_lineage *out);

/* Writes the record; a new lineage also gets its links. */
MUST_USE enum err state_table_put_lineage(struct state_txn *txn,
                                          const struct record_lineage *lineage, int is_new);

/* Removes the record and its links to owner and parent. */
MUST_USE enum err state_table_remove_lineage(struct state_txn *txn,
                                             const struct record_lineage *lineage);
MUST_USE enum err state_table_remove_owner(struct state_txn *txn, const uint8_t *conversation,
                                           uint64_t lineage);

/* A lineage that the conversation owns with an id of at least FROM; ERR_NOT_FOUND. */
MUST_USE enum err state_table_next_owned(struct state_txn *txn, const uint8_t *conversation,
                                         uint64_t from, uint64_t *lineage_out);

/* The largest first_block of the lineage's children; *child_count_out may be 0. */
MUST_USE enum err state_table_children(struct state_txn *txn, uint64_t lineage,
                                       uint64_t *child_count_out, uint64_t *covered_out);

#endif
