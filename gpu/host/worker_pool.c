/*
 * I1. A share is claimed by taking 1 from `unclaimed`, which is above 0 only while a call runs.
 *     The job's fields are written while `unfinished` is 0 and read only between a claim and the
 *     end of the claimed share, so they cannot change under a reader, however late it comes.
 * I2. `unfinished` counts shares, not workers: a worker that sleeps through a call is not waited
 *     for, and one that wakes late finds nothing to claim.
 * I3. A worker's results are visible to the caller: it ends a share with a release that the
 *     caller's acquire of `unfinished` == 0 takes in.
 */
#include "gpu/host/worker_pool.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "gpu/host/doorbell.h"
#include "gpu/host/host_thread.h"

enum { THREADS_MAX = 256 };

/*
 * Long enough to bridge the few microseconds between two ops of a step and the uneven ends of one,
 * since waking a sleeping thread costs 5 us here and 50 us there; short against a step.
 */
enum { SPIN_NS = 50000 };

struct worker {
    struct worker_pool *pool;
    pthread_t thread;
    int number; /* 1 and up; the caller is 0 */
};

struct worker_pool {
    /* What a call writes and every worker reads, on one line. */
    _Alignas(64) _Atomic size_t unclaimed;
    struct doorbell start;
    _Atomic int is_closing;
    size_t shares;
    size_t units;
    size_t grain;
    worker_fn *run;
    void *context;

    _Alignas(64) _Atomic size_t unfinished;
    struct doorbell finish;

    _Alignas(64) int threads;
    uint64_t spin_ns;
    int started; /* of `workers` */
    struct worker workers[THREADS_MAX - 1];
};

/* Runs shares of the current call until none is left to claim. */
static void take_shares(struct worker_pool *pool, int worker) {
    size_t unclaimed = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    while (unclaimed > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->unclaimed, &unclaimed, unclaimed - 1,
                                                   memory_order_acquire, memory_order_relaxed)) {
            continue;
        }
        size_t begin = (pool->shares - unclaimed) * pool->grain;
        size_t left = pool->units - begin;
        size_t end = begin + (left < pool->grain ? left : pool->grain);
        pool->run(pool->context, begin, end, worker);
        /* The last to finish rings; after that the job's fields are not this worker's to read. */
        if (atomic_fetch_sub_explicit(&pool->unfinished, 1, memory_order_acq_rel) == 1 &&
            worker != 0) {
            doorbell_ring(&pool->finish);
        }
        unclaimed = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    }
}

static void *worker_main(void *context) {
    struct worker *worker = context;
    struct worker_pool *pool = worker->pool;
    host_thread_set_float_state();
    for (;;) {
        uint32_t seen = doorbell_value(&pool->start);
        if (atomic_load_explicit(&pool->is_closing, memory_order_acquire)) {
            return NULL;
        }
        take_shares(pool, worker->number);
        doorbell_wait(&pool->start, seen, pool->spin_ns);
    }
}

enum err worker_pool_create(int threads, struct worker_pool **out) {
    if (threads < 1 || threads > THREADS_MAX) {
        return err_fail(ERR_INVALID, "worker pool of %d threads; 1 to %d are possible", threads,
                        THREADS_MAX);
    }
    struct worker_pool *pool = aligned_alloc(_Alignof(struct worker_pool), sizeof *pool);
    if (pool == NULL) {
        return err_fail(ERR_NOMEM, "worker pool of %d threads", threads);
    }
    *pool = (struct worker_pool){.threads = threads};
    /* With more threads than processors a spinning one keeps a working one from running. */
    pool->spin_ns = threads <= host_thread_processors() ? SPIN_NS : 0;
    for (int i = 0; i < threads - 1; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->number = i + 1;
        enum err err = host_thread_create("tern-worker", worker_main, worker, &worker->thread);
        if (err != ERR_OK) {
            worker_pool_destroy(pool);
            return err;
        }
        pool->started = i + 1;
    }
    *out = pool;
    return ERR_OK;
}

void worker_pool_destroy(struct worker_pool *pool) {
    if (pool == NULL) {
        return;
    }
    atomic_store_explicit(&pool->is_closing, 1, memory_order_release);
    doorbell_ring(&pool->start);
    for (int i = 0; i < pool->started; i++) {
        pthread_join(pool->workers[i].thread, NULL);
    }
    free(pool);
}

int worker_pool_threads(const struct worker_pool *pool) {
    return pool->threads;
}

static void wait_finished(struct worker_pool *pool) {
    for (;;) {
        uint32_t seen = doorbell_value(&pool->finish);
        if (atomic_load_explicit(&pool->unfinished, memory_order_acquire) == 0) {
            return;
        }
        doorbell_wait(&pool->finish, seen, pool->spin_ns);
    }
}

void worker_pool_run(struct worker_pool *pool, size_t units, size_t grain, worker_fn *run,
                     void *context) {
    assert(grain > 0);
    if (units == 0) {
        return;
    }
    unsigned float_state = host_thread_set_float_state();
    size_t shares = units / grain + (units % grain != 0);
    if (shares == 1 || pool->threads == 1) {
        for (size_t begin = 0; begin < units; begin += grain) {
            run(context, begin, units - begin < grain ? units : begin + grain, 0);
        }
        host_thread_restore_float_state(float_state);
        return;
    }
    assert(atomic_load_explicit(&pool->unfinished, memory_order_relaxed) == 0); /* I1 */
    pool->shares = shares;
    pool->units = units;
    pool->grain = grain;
    pool->run = run;
    pool->context = context;
    atomic_store_explicit(&pool->unfinished, shares, memory_order_relaxed);
    atomic_store_explicit(&pool->unclaimed, shares, memory_order_release);
    doorbell_ring(&pool->start);
    take_shares(pool, 0);
    wait_finished(pool);
    host_thread_restore_float_state(float_state);
}
