/*
 * The exclusive lock of a store directory, and the mark of a clean end. A server holds the lock
 * from before it opens anything in the directory until everything is closed; a second one is
 * refused with the first one's process id.
 *
 * One thread acquires and releases. The lock goes with the process, however it ends.
 */
#ifndef TERN_STORE_LOCK_H
#define TERN_STORE_LOCK_H

#include "base/err.h"

struct lock;

/* Makes DIR with mode 0700 if it is missing, and locks DIR/LOCK. ERR_BUSY with a message that
 * names the holder's process id. */
MUST_USE enum err lock_acquire(const char *dir, struct lock **out);

/* True if the last holder released it as clean, or if there never was one. If not, the
 * environments in the directory are to be walked before they are opened. */
int lock_was_clean(const struct lock *lock);

/* Releases and frees; accepts NULL. IS_CLEAN: everything in the directory was closed in order.
 * A mark that can't be written costs the next start a walk, nothing else. */
void lock_release(struct lock *lock, int is_clean);

#endif
