/*
 * Each figure is the best of several short rounds: another program's work can only lower one.
 */
#include "gpu/host/host_peaks.h"

#include "base/now.h"
#include "gpu/host/host_device.h"
#include "gpu/host/host_pages.h"

#include <string.h>

enum { ROUNDS = 4, STEPS = 400000, READ_BYTES = 128 << 20, READ_UNIT_BYTES = 1 << 20 };

struct peak_run {
    const struct kernel_peaks *peaks;
    const uint8_t *memory;
    _Atomic unsigned sink; /* of what the loops give */
};

static void keep(struct peak_run *run, float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    atomic_fetch_xor_explicit(&run->sink, bits, memory_order_relaxed);
}

static void run_dot(void *context, size_t begin, size_t end, int worker) {
    struct peak_run *run = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        keep(run, run->peaks->dot(STEPS));
    }
}

static void run_fma(void *context, size_t begin, size_t end, int worker) {
    struct peak_run *run = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        keep(run, run->peaks->fma(STEPS));
    }
}

static void run_read(void *context, size_t begin, size_t end, int worker) {
    struct peak_run *run = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        const void *from = run->memory + i * READ_UNIT_BYTES;
        keep(run, run->peaks->read(from, READ_UNIT_BYTES / sizeof(float)));
    }
}

/* Units of work a second, the best of ROUNDS. */
static double best_rate(struct host_device *device, size_t units, worker_fn *work,
                        struct peak_run *run) {
    double best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t started_ns = now_monotonic_ns();
        worker_pool_run(device->pool, units, 1, work, run);
        double rate = (double)units / ((double)(now_monotonic_ns() - started_ns) * 1e-9);
        best = rate > best ? rate : best;
    }
    return best;
}

enum err host_peaks_measure(struct device *base, struct profile_peaks *out) {
    struct host_device *device = host_device_of(base);
    struct peak_run run = {.peaks = device->kernels->peaks};
    if (run.peaks == NULL) {
        return err_fail(ERR_UNSUPPORTED, "the reference has no peaks");
    }
    void *memory = NULL;
    TRY(host_pages_map(READ_BYTES, &memory));
    memset(memory, 1, READ_BYTES); /* pages that were never written are all one page */
    run.memory = memory;
    size_t units = (size_t)device->threads * 4;
    pthread_mutex_lock(&device->pool_lock);
    *out = (struct profile_peaks){
        .dot_ops_per_s = best_rate(device, units, run_dot, &run) * STEPS * run.peaks->dot_step_ops,
        .float_ops_per_s =
            best_rate(device, units, run_fma, &run) * STEPS * run.peaks->float_step_ops,
        .read_bytes_per_s =
            best_rate(device, READ_BYTES / READ_UNIT_BYTES, run_read, &run) * READ_UNIT_BYTES,
    };
    pthread_mutex_unlock(&device->pool_lock);
    host_pages_unmap(memory, READ_BYTES);
    return ERR_OK;
}
