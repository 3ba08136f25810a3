/*
 * A store directory opened for reading, beside a running server or without one: the ledger and, if
 * there is one, the state environment, in read transactions that are short. Nothing is written but
 * LMDB's reader slots, and LOCK is left alone.
 *
 * One thread; open at most once in a process.
 */
#ifndef TERN_TOOLS_STORE_VIEW_H
#define TERN_TOOLS_STORE_VIEW_H

#include "ledger/ledger.h"
#include "ledger/state_key.h"
#include "store/record.h"
#include "store/state_env.h"

struct store_view {
    const char *directory; /* borrowed */
    struct ledger *ledger;
    struct state_env *state; /* NULL: there is no state */
};

/* ERR_NOT_FOUND where DIRECTORY holds no ledger. */
MUST_USE enum err store_view_open(const char *directory, struct store_view *out);
void store_view_close(struct store_view *view); /* also a zeroed one */

/*
 * The conversation of these names; the caller ends *out with turn_record_conversation_done.
 * ERR_NOT_FOUND with a message that names it. Needs the file `secret`.
 */
MUST_USE enum err store_view_find(const struct store_view *view,
                                  const struct conversation_identity *identity,
                                  struct conversation_record *out);

/* Calls VISIT for every conversation in the order of keys, with no transaction open. */
MUST_USE enum err store_view_each_conversation(
    const struct store_view *view,
    enum err (*visit)(void *context, const struct conversation_record *conversation), void *context,
    uint64_t *skipped_out);

/*
 * All heads of the conversation on disk, of all models and kinds; none where there is no state.
 * The caller frees *heads_out, which may be NULL.
 */
MUST_USE enum err store_view_heads(const struct store_view *view,
                                   const struct conversation_record *conversation,
                                   struct record_head **heads_out, size_t *count_out);

/* The names of a command line as an identity; NULL stands for the empty text. */
struct conversation_identity store_view_identity(const char *tenant, const char *salt,
                                                 const char *id);

#endif
