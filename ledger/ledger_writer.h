/*
 * The ledger's writer thread: takes what waits in its queue, commits it in groups, removes the
 * turns of deleted conversations between groups, and keeps account of the room. Internal to
 * ledger/.
 *
 * Owns the thread and the queue; borrows the environment and the leases.
 */
#ifndef TERN_LEDGER_LEDGER_WRITER_H
#define TERN_LEDGER_LEDGER_WRITER_H

#include "ledger/ledger_apply.h"

struct ledger_writer;

/* Pages that appends leave alone, so that deleting always works. */
uint64_t ledger_writer_reserve_pages(uint64_t map_pages);

MUST_USE enum err ledger_writer_create(struct ledger_db *db, struct lease_table *leases,
                                       size_t queue_max, struct ledger_writer **out);
/* Commits what is queued, then ends the thread. Accepts NULL. */
void ledger_writer_destroy(struct ledger_writer *writer);

/* Commits APPLY and waits for it; its results are valid if this returns ERR_OK. */
MUST_USE enum err ledger_writer_run(struct ledger_writer *writer, struct ledger_apply *apply);

/* As ledger_append_submit. */
MUST_USE enum err ledger_writer_submit(struct ledger_writer *writer,
                                       const struct ledger_append *request, ledger_done_fn *done,
                                       void *context);

MUST_USE enum err ledger_writer_room_take(struct ledger_writer *writer, uint64_t pages);
void ledger_writer_room_release(struct ledger_writer *writer, uint64_t pages);

int ledger_writer_is_failed(struct ledger_writer *writer);

/* Fills in what the writer counts: from room_bytes on. */
void ledger_writer_stats(struct ledger_writer *writer, struct ledger_stats *stats);

#endif
