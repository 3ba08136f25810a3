/*
 * How fast a conversation's newest head can be brought back at best: its objects read out of a
 * store that no server runs on, verified and decoded, and nothing else. They are decoded into one
 * small buffer a thread, so that memory traffic of the destination is not part of it.
 */
#ifndef TERN_TOOLS_RESTORE_FLOOR_H
#define TERN_TOOLS_RESTORE_FLOOR_H

#include "base/err.h"

enum { RESTORE_FLOOR_THREADS_MAX = 64 };

struct restore_floor {
    uint64_t tokens;
    uint64_t coded_bytes; /* of all its objects, whole runs, as tern.bytes_read counts them */
    uint64_t raw_bytes;
    int threads;
    double seconds_single;  /* the best of several passes by one thread, from the page cache */
    double seconds_threads; /* by all of them */
};

/* The head with the highest turn of the conversation of this id, without salt and tenant. */
MUST_USE enum err restore_floor_measure(const char *store, const char *conversation, int threads,
                                        struct restore_floor *out);

#endif
