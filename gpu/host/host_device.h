/*
 * The host backend's device as its own files see it: the workers, the kernel
 * set, the account of memory and the state of failure. Internal to gpu/host/ and
 * to tests.
 */
#ifndef TERN_GPU_HOST_DEVICE_H
#define TERN_GPU_HOST_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "gpu/backend.h"
#include "gpu/host/host_arena.h"
#include "gpu/host/host_poison.h"
#include "gpu/host/kernel.h"
#include "gpu/host/worker_pool.h"

struct host_device {
    struct device base;
    uint32_t magic;
    int threads;
    const struct kernel_set *kernels;
    struct host_poison *poison;
    struct host_arena *arena; /* of weights; used by the thread that creates and destroys them */

    pthread_mutex_t pool_lock; /* one command at a time has the workers and the scratch */
    struct worker_pool *pool;
    void *scratch;                /* under pool_lock */
    _Atomic size_t scratch_bytes; /* grows only, under pool_lock; read without */

    size_t memory_max_bytes; /* SIZE_MAX: no cap */
    _Atomic size_t memory_used_bytes;
    _Atomic int object_count; /* buffers, weights, streams, events and batches that live */

    _Atomic int failure; /* 0: none, 1: being written down, 2: failure_reason holds it */
    char failure_reason[160];
    _Atomic int64_t items_until_failure; /* negative: none is planned */
};

struct host_device *host_device_of(const struct device *device);

/* Takes BYTES out of the cap; WHAT names their use in the message of ERR_NOMEM. */
MUST_USE enum err host_device_reserve(struct host_device *device, size_t bytes, const char *what);
void host_device_unreserve(struct host_device *device, size_t bytes);

/* Makes the shared scratch at least BYTES large; may wait for the command that runs. */
MUST_USE enum err host_device_grow_scratch(struct host_device *device, size_t bytes);

/*
 * A failed device runs nothing more: pending items pass without effect, enqueues and waits are
 * ERR_DEVICE with the first failure's REASON. It stays so until it is closed.
 */
void host_device_fail(struct host_device *device, const char *reason);
MUST_USE enum err host_device_check(const struct host_device *device);

/* Fails the device in place of the item that comes after ITEMS more have run, on any stream; a
 * negative count calls it off. How tests reach the paths behind ERR_DEVICE. */
void host_device_plan_failure(struct device *device, int64_t items);

/* Counts one item down; 0 if the item must not run. */
int host_device_admit_item(struct host_device *device);

#endif
