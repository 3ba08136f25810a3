/*
 * Zeroed memory straight from the system, in huge pages where it is large and
 * the system grants them. Any thread may call.
 */
#ifndef TERN_GPU_HOST_PAGES_H
#define TERN_GPU_HOST_PAGES_H

#include "base/err.h"

/* BYTES above 0, aligned to 64 bytes at least. ERR_NOMEM. */
MUST_USE enum err host_pages_map(size_t bytes, void **out);

/* Maps the whole pages of a part now, contents unchanged; a hint. */
void host_pages_warm(void *memory, size_t bytes);

/* With the BYTES it was mapped with; NULL is nothing. */
void host_pages_unmap(void *memory, size_t bytes);

#endif
