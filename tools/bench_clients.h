/*
 * Work for several clients at once: numbered jobs, each run by the next thread that is free, in the
 * order of their numbers. Returns when all are done or one has failed.
 */
#ifndef TERN_TOOLS_BENCH_CLIENTS_H
#define TERN_TOOLS_BENCH_CLIENTS_H

#include "base/err.h"

enum { BENCH_CLIENTS_MAX = 256 };

struct bench_clients {
    int in_flight; /* 1 to BENCH_CLIENTS_MAX */
    long long jobs;
    enum err (*run)(void *context, long long job); /* on several threads at once */
    void *context;
};

/* The first error, with its message; jobs that had begun by then are run to their ends. */
MUST_USE enum err bench_clients_run(const struct bench_clients *clients);

#endif
