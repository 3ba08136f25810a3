/*
 * Reads heads from the disk tier by several threads at once: the caller's and the promoter's own,
 * which sleep between heads. A head is cut into parts (its state, its tail, a few blocks each)
 * that are read, checked and decoded independently.
 *
 * Any thread may read; reads of several heads share the promoter's threads, oldest first. It
 * doesn't outlive its tier.
 */
#ifndef TERN_STORE_PROMOTER_H
#define TERN_STORE_PROMOTER_H

#include "store/tier_disk.h"

struct promoter;

/* THREADS counts the caller of a read: 1 starts none. ERR_INVALID unless 1 to PROMOTER_THREADS_MAX;
 * ERR_NOMEM. */
enum { PROMOTER_THREADS_MAX = 16 };
MUST_USE enum err promoter_create(struct tier_disk *disk, int threads, struct promoter **out);

/* No read may be under way. Accepts NULL. */
void promoter_destroy(struct promoter *promoter);

/* Has a reader ready, its memory touched. */
void promoter_warm(struct promoter *promoter);

/*
 * tier_disk_read of all that is wanted, in no order; SINK's functions are called from several
 * threads at once. When an object fails what has begun is finished first: nothing is written to
 * the destinations after this returned. *bytes_read grows by the coded bytes that were read.
 */
MUST_USE enum err promoter_read(struct promoter *promoter, const struct head_plan *plan,
                                const struct head_want *want, const struct head_sink *sink,
                                struct head_failure *failure, uint64_t *bytes_read);

#endif
