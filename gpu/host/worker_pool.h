/*
 * The threads of the host backend that compute. worker_pool_run splits `units`
 * of independent work into shares of `grain` units, which the workers (the
 * caller among them, as worker 0) take until none is left; it returns when all
 * have run. Workers spin briefly between calls, then sleep. Every worker, and
 * the caller inside worker_pool_run, has the default MXCSR: round to nearest,
 * no flushing of denormals.
 *
 * One thread at a time may call worker_pool_run.
 */
#ifndef TERN_GPU_WORKER_POOL_H
#define TERN_GPU_WORKER_POOL_H

#include "base/err.h"

struct worker_pool;

typedef void worker_fn(void *context, size_t begin, size_t end, int worker);

/* THREADS counts the caller: 1 starts none. ERR_INVALID unless 1 to 256. */
MUST_USE enum err worker_pool_create(int threads, struct worker_pool **out);
void worker_pool_destroy(struct worker_pool *pool);
int worker_pool_threads(const struct worker_pool *pool);
void worker_pool_run(struct worker_pool *pool, size_t units, size_t grain, worker_fn *run,
                     void *context);

#endif
