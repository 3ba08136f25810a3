/*
 * Leases: the exclusive right of one request to advance a conversation. In memory only; a lease
 * ends with the process. Each carries a fencing generation number that no earlier lease of any
 * conversation had, also not before a restart: the ledger's epoch, which is made durable at each
 * open, stands above a counter. An append whose generation is no longer the key's is refused.
 *
 * All functions may be called from any thread. The ledger owns the table that its appends are
 * checked against (ledger_leases).
 */
#ifndef TERN_LEDGER_LEASE_H
#define TERN_LEDGER_LEASE_H

#include "ledger/conversation_key.h"

struct lease_table;

/* EPOCH must be higher than that of any table before it. At most LEASES_MAX are held at once. */
MUST_USE enum err lease_table_create(uint64_t epoch, size_t leases_max, struct lease_table **out);
void lease_table_destroy(struct lease_table *table);

/* ERR_BUSY if somebody holds the key, ERR_FULL if the table is full. The key need not exist yet. */
MUST_USE enum err lease_take(struct lease_table *table, const struct conversation_key *key,
                             uint64_t *generation);

/*
 * Gives it back; nothing happens if it is no longer GENERATION's. While an append of this lease
 * is being committed, the key stays busy until that is decided.
 */
void lease_release(struct lease_table *table, const struct conversation_key *key,
                   uint64_t generation);

/* False from lease_release or lease_revoke on. */
int lease_is_current(struct lease_table *table, const struct conversation_key *key,
                     uint64_t generation);

/* Takes the key from whoever holds it, whose generation is stale from then on. */
void lease_revoke(struct lease_table *table, const struct conversation_key *key);

size_t lease_count(struct lease_table *table);

/*
 * For the ledger's writer thread: between the two calls the lease can neither be taken by
 * another nor end. ERR_CONFLICT unless GENERATION is current.
 */
MUST_USE enum err lease_commit_begin(struct lease_table *table, const struct conversation_key *key,
                                     uint64_t generation);
void lease_commit_end(struct lease_table *table, const struct conversation_key *key,
                      uint64_t generation);

#endif
