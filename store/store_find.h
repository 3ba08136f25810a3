/*
 * Reading a head that memory has lost. Internal to store/; what lookups do is in store.h.
 */
#ifndef TERN_STORE_STORE_FIND_H
#define TERN_STORE_STORE_FIND_H

#include "store/store_state.h"

/* Reads HEAD, which lies on disk, into host memory, checked as every head that is found there. The
 * mover's: waits for room as its other moves do. Whatever fails: the head's memory stays empty. */
MUST_USE enum err store_find_again(struct store *store, struct store_head *head);

#endif
