/*
 * What a fork does to the tables: copies of turns under a new serial. Part of ledger_apply, apart
 * for its size. Internal to ledger/; on the writer thread.
 */
#ifndef TERN_LEDGER_FORK_APPLY_H
#define TERN_LEDGER_FORK_APPLY_H

#include "ledger/ledger_apply.h"

/* As ledger_apply_check and ledger_apply_write, for LEDGER_APPLY_FORK. */
MUST_USE enum err fork_apply_check(struct ledger_apply *apply, struct ledger_db_txn *txn,
                                   uint64_t pages_left, uint64_t *pages);
MUST_USE enum err fork_apply_write(struct ledger_apply *apply, struct ledger_db_txn *txn);

#endif
