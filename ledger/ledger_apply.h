/*
 * What one commit does to the tables. Checking reads and encodes, and refuses; writing only
 * puts. So a refused member of a group leaves no trace in the group's transaction, and a write that
 * fails concerns the transaction, not the member. Internal to ledger/; on the writer thread.
 */
#ifndef TERN_LEDGER_LEDGER_APPLY_H
#define TERN_LEDGER_LEDGER_APPLY_H

#include "ledger/ledger.h"
#include "ledger/ledger_table.h"

enum ledger_apply_kind {
    LEDGER_APPLY_APPEND,
    LEDGER_APPLY_FORK,
    LEDGER_APPLY_DELETE,
    LEDGER_APPLY_TOMBSTONE_REMOVE,
    LEDGER_APPLY_EXPIRE,
};

/* One thing to be committed: what is asked, what came out, and what checking staged for writing. */
struct ledger_apply {
    enum ledger_apply_kind kind;
    const struct ledger_append *append; /* APPEND */
    const struct ledger_fork *fork;     /* FORK */
    struct conversation_key key;        /* DELETE */
    uint64_t serial;                    /* TOMBSTONE_REMOVE; result of DELETE */
    uint64_t now_ms;                    /* EXPIRE */
    size_t removed;                     /* result of EXPIRE */
    struct ledger_appended appended;    /* result of APPEND and FORK */

    struct {
        struct buf turn;
        struct buf dialect; /* empty: it stays */
        struct buf conversation;
        int is_dialect_replaced;
    } staged;
};

void ledger_apply_init(struct ledger_apply *apply, enum ledger_apply_kind kind);
void ledger_apply_done(struct ledger_apply *apply);

/* The lease that must be held for it; false if it needs none. */
int ledger_apply_lease(const struct ledger_apply *apply, const struct conversation_key **key,
                       uint64_t *generation);

/* The bounds of a request that need no database: for the caller's thread. */
MUST_USE enum err ledger_apply_validate(const struct ledger_append *request);

/* Pages that a turn of so many bytes may take, with all that a commit copies. */
uint64_t ledger_apply_pages(uint64_t bytes);

/*
 * ERR_OK: *pages is what writing will take at most, and ledger_apply_write may follow in this
 * transaction. PAGES_LEFT bounds appends and forks only. May be called again in another
 * transaction.
 */
MUST_USE enum err ledger_apply_check(struct ledger_apply *apply, struct ledger_db_txn *txn,
                                     uint64_t pages_left, uint64_t *pages);
MUST_USE enum err ledger_apply_write(struct ledger_apply *apply, struct ledger_db_txn *txn);

#endif
