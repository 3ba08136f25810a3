/*
 * The store directory of a benchmark as files: a temporary one, its size, and what of its state
 * the system keeps in the page cache. For directories that no server runs on.
 */
#ifndef TERN_TOOLS_BENCH_STORE_H
#define TERN_TOOLS_BENCH_STORE_H

#include "base/err.h"

enum { BENCH_STORE_PATH_BYTES = 4096 };

/* Under TMPDIR or else /var/tmp, which lies on a disk where /tmp may lie in memory. */
MUST_USE enum err bench_store_make(char path[BENCH_STORE_PATH_BYTES]);

/* With everything in it. */
MUST_USE enum err bench_store_remove(const char *path);

/* What its files take on the disk: the ledger's, with what it has reserved, and the state's. */
struct bench_store_size {
    uint64_t ledger_bytes;
    uint64_t state_bytes;
};
MUST_USE enum err bench_store_measure(const char *path, struct bench_store_size *out);

/* Reads every file under PATH/state from its begin to its end: they are in the page cache then. */
struct bench_store_reading {
    uint64_t bytes;
    double seconds;
};
MUST_USE enum err bench_store_read(const char *path, struct bench_store_reading *out);

/*
 * Has the page cache drop the files under PATH/state. *resident_out is the share of their pages
 * that is there all the same: 1 on a file system in memory, where it has no effect.
 */
MUST_USE enum err bench_store_drop(const char *path, double *resident_out);

#endif
