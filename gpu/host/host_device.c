#include "gpu/host/host_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/host/host_buffer.h"
#include "gpu/host/host_event.h"
#include "gpu/host/host_pages.h"
#include "gpu/host/host_peaks.h"
#include "gpu/host/host_stream.h"
#include "gpu/host/host_thread.h"
#include "gpu/host/host_weight.h"

enum { DEVICE_MAGIC = 0x0de71ce5, THREADS_MAX = 256 };

struct host_device *host_device_of(const struct device *base) {
    struct host_device *device = (struct host_device *)(uintptr_t)base;
    MAGIC_CHECK(device, DEVICE_MAGIC);
    return device;
}

/* --- memory -------------------------------------------------------------------------- */

enum err host_device_reserve(struct host_device *device, size_t bytes, const char *what) {
    size_t used = atomic_load(&device->memory_used_bytes);
    do {
        size_t left = device->memory_max_bytes - used;
        if (bytes > left) {
            return err_fail(ERR_NOMEM, "device memory: %s needs %zu bytes, %zu of %zu are left",
                            what, bytes, left, device->memory_max_bytes);
        }
    } while (!atomic_compare_exchange_weak(&device->memory_used_bytes, &used, used + bytes));
    return ERR_OK;
}

void host_device_unreserve(struct host_device *device, size_t bytes) {
    size_t before = atomic_fetch_sub(&device->memory_used_bytes, bytes);
    assert(before >= bytes);
    (void)before;
}

/* Pending plans count on the old scratch, so it goes only when the new one is there: for a moment
 * the account holds both. */
static enum err replace_scratch(struct host_device *device, size_t bytes) {
    size_t old_bytes = atomic_load(&device->scratch_bytes);
    if (bytes <= old_bytes) {
        return ERR_OK;
    }
    TRY(host_device_reserve(device, bytes, "scratch of an op"));
    void *memory = NULL;
    enum err err = host_pages_map(bytes, &memory);
    if (err != ERR_OK) {
        host_device_unreserve(device, bytes);
        return err;
    }
    host_pages_unmap(device->scratch, old_bytes);
    host_device_unreserve(device, old_bytes);
    device->scratch = memory;
    atomic_store(&device->scratch_bytes, bytes);
    return ERR_OK;
}

enum err host_device_grow_scratch(struct host_device *device, size_t bytes) {
    if (bytes <= atomic_load(&device->scratch_bytes)) {
        return ERR_OK;
    }
    pthread_mutex_lock(&device->pool_lock);
    enum err err = replace_scratch(device, bytes);
    pthread_mutex_unlock(&device->pool_lock);
    return err;
}

/* --- failure ------------------------------------------------------------------------- */

void host_device_fail(struct host_device *device, const char *reason) {
    int none = 0;
    if (atomic_compare_exchange_strong(&device->failure, &none, 1)) {
        snprintf(device->failure_reason, sizeof device->failure_reason, "%s", reason);
        atomic_store(&device->failure, 2);
    }
}

enum err host_device_check(const struct host_device *device) {
    int failure = atomic_load(&device->failure);
    if (failure == 0) {
        return ERR_OK;
    }
    return err_fail(ERR_DEVICE, "the host device has failed and runs nothing more: %s",
                    failure == 2 ? device->failure_reason : "for a reason not yet written down");
}

void host_device_plan_failure(struct device *base, int64_t items) {
    atomic_store(&host_device_of(base)->items_until_failure, items);
}

int host_device_admit_item(struct host_device *device) {
    if (atomic_load_explicit(&device->items_until_failure, memory_order_relaxed) >= 0 &&
        atomic_fetch_sub(&device->items_until_failure, 1) == 0) {
        host_device_fail(device, "a planned failure");
    }
    return atomic_load(&device->failure) == 0;
}

/* --- opening ------------------------------------------------------------------------- */

static enum err choose_kernels(const char *isa, const struct kernel_set **out) {
    static const char *const names[] = {"auto", "portable", "avx2", "avx512", "avx512vnni"};
    if (strcmp(isa, kernel_set_reference.name) == 0) {
        *out = &kernel_set_reference;
        return ERR_OK;
    }
    for (size_t i = 0; kernel_sets[i] != NULL; i++) {
        int is_wanted = strcmp(isa, "auto") == 0 || strcmp(isa, kernel_sets[i]->name) == 0;
        if (is_wanted && kernel_sets[i]->is_supported()) {
            *out = kernel_sets[i];
            return ERR_OK;
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(isa, names[i]) == 0) {
            return err_fail(ERR_UNSUPPORTED, "ISA '%s' is not there on this processor", isa);
        }
    }
    return err_fail(ERR_INVALID,
                    "unknown ISA '%s'; auto, portable, avx2, avx512, avx512vnni and reference "
                    "are known",
                    isa);
}

static void device_close_host(struct device *base) {
    struct host_device *device = host_device_of(base);
    assert(atomic_load(&device->object_count) == 0);
    worker_pool_destroy(device->pool);
    host_poison_destroy(device->poison);
    host_arena_destroy(device->arena);
    host_pages_unmap(device->scratch, atomic_load(&device->scratch_bytes));
    host_device_unreserve(device, atomic_load(&device->scratch_bytes));
    assert(atomic_load(&device->memory_used_bytes) == 0);
    pthread_mutex_destroy(&device->pool_lock);
    device->magic = 0;
    free(device);
}

static enum err device_open_host(const struct device_config *config, struct device **out) {
    const struct kernel_set *kernels = NULL;
    TRY(choose_kernels(config->isa == NULL ? "auto" : config->isa, &kernels));
    int threads = config->threads == 0 ? host_thread_processors() : config->threads;
    struct host_device *device = calloc(1, sizeof *device);
    if (device == NULL) {
        return err_fail(ERR_NOMEM, "host device");
    }
    device->base.ops = &backend_host;
    device->magic = DEVICE_MAGIC;
    device->threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    device->kernels = kernels;
    device->memory_max_bytes = config->memory_max_bytes == 0 ? SIZE_MAX : config->memory_max_bytes;
    atomic_init(&device->items_until_failure, -1);
    pthread_mutex_init(&device->pool_lock, NULL);
    enum err err = host_poison_create(&device->poison);
    if (err == ERR_OK) {
        err = host_arena_create(&device->arena);
    }
    if (err == ERR_OK) {
        err = worker_pool_create(device->threads, &device->pool);
    }
    if (err != ERR_OK) {
        device_close_host(&device->base);
        return err;
    }
    *out = &device->base;
    return ERR_OK;
}

static void device_get_info_host(const struct device *base, struct device_info *out) {
    const struct host_device *device = host_device_of(base);
    *out = (struct device_info){
        .backend = backend_host.name,
        .isa = device->kernels->name,
        .numerics_class = KERNEL_NUMERICS_CLASS,
        .threads = device->threads,
        .memory_used_bytes = atomic_load(&device->memory_used_bytes),
        .memory_max_bytes = device->memory_max_bytes == SIZE_MAX ? 0 : device->memory_max_bytes,
    };
}

/* --- weights and batches ------------------------------------------------------------- */

/* What a weight is counted with: its mapping where the packer rounds up. */
static size_t weight_bytes(const struct host_weight *weight) {
    size_t packed =
        host_weight_packed_bytes(weight->base.type, weight->base.rows, weight->base.columns);
    return weight->mapped_bytes > packed ? weight->mapped_bytes : packed;
}

static enum err weight_create(struct device *base, const struct device_weight_params *params,
                              struct device_weight **out) {
    struct host_device *device = host_device_of(base);
    size_t packed = host_weight_packed_bytes(params->type, params->rows, params->columns);
    TRY(host_device_reserve(device, packed, "weight"));
    struct host_weight *weight = NULL;
    pthread_mutex_lock(&device->pool_lock);
    enum err err = host_weight_create(device->arena, device->pool, params, &weight);
    pthread_mutex_unlock(&device->pool_lock);
    if (err != ERR_OK) {
        host_device_unreserve(device, packed);
        return err;
    }
    err = host_device_reserve(device, weight_bytes(weight) - packed, "weight");
    if (err != ERR_OK) {
        host_weight_destroy(weight);
        host_device_unreserve(device, packed);
        return err;
    }
    weight->base.device = base;
    atomic_fetch_add(&device->object_count, 1);
    *out = &weight->base;
    return ERR_OK;
}

static void weight_destroy(struct device_weight *base) {
    struct host_device *device = host_device_of(base->device);
    struct host_weight *weight = (struct host_weight *)(void *)base;
    host_device_unreserve(device, weight_bytes(weight));
    atomic_fetch_sub(&device->object_count, 1);
    host_weight_destroy(weight);
}

static enum err batch_create_host(struct device *base, const struct batch_limits *limits,
                                  struct batch **out) {
    (void)limits;
    struct batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        return err_fail(ERR_NOMEM, "batch");
    }
    batch->device = base;
    atomic_fetch_add(&host_device_of(base)->object_count, 1);
    *out = batch;
    return ERR_OK;
}

static void batch_destroy_host(struct batch *batch) {
    atomic_fetch_sub(&host_device_of(batch->device)->object_count, 1);
    free(batch);
}

/* Kernels read the front's copy of the layout where it is. */
static enum err batch_upload_host(struct batch *batch, struct device_stream *stream) {
    (void)stream;
    return host_device_check(host_device_of(batch->device));
}

const struct backend_ops backend_host = {
    .name = "host",
    .open = device_open_host,
    .close = device_close_host,
    .get_info = device_get_info_host,
    .buffer_create = host_buffer_create,
    .buffer_destroy = host_buffer_destroy,
    .buffer_warm = host_buffer_warm,
    .host_alloc = host_buffer_alloc_staging,
    .host_free = host_buffer_free_staging,
    .weight_create = weight_create,
    .weight_destroy = weight_destroy,
    .stream_create = host_stream_create,
    .stream_destroy = host_stream_destroy,
    .stream_wait_idle = host_stream_wait_idle,
    .event_create = host_event_create,
    .event_destroy = host_event_destroy,
    .event_record = host_event_record,
    .stream_wait_event = host_event_stream_wait,
    .event_wait = host_event_wait,
    .event_fired = host_event_fired,
    .copy_in = host_stream_copy_in,
    .copy_out = host_stream_copy_out,
    .copy = host_stream_copy,
    .fill = host_stream_fill,
    .enqueue = host_stream_enqueue,
    .batch_create = batch_create_host,
    .batch_destroy = batch_destroy_host,
    .batch_upload = batch_upload_host,
    .measure_peaks = host_peaks_measure,
};
