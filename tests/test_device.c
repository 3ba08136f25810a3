#include "gpu/device.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu/host/host_device.h"
#include "gpu/host/host_memory.h"
#include "gpu/host/host_stream.h"
#include "gpu/op.h"

enum { BYTES = 4096 };

/* A device with a buffer, a compute stream and a copy stream. */
struct bench {
    struct device *device;
    struct device_buffer *buffer;
    struct device_stream *compute;
    struct device_stream *copy;
};

static struct bench setup(void) {
    struct bench bench;
    const struct device_config config = {.isa = "reference", .threads = 2};
    assert_int_equal(device_open(&config, &bench.device), ERR_OK);
    assert_int_equal(device_buffer_create(bench.device, BYTES, &bench.buffer), ERR_OK);
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COMPUTE, &bench.compute),
                     ERR_OK);
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COPY, &bench.copy), ERR_OK);
    return bench;
}

static void teardown(struct bench *bench) {
    device_stream_destroy(bench->compute);
    device_stream_destroy(bench->copy);
    device_buffer_destroy(bench->buffer);
    device_close(bench->device);
}

static struct device_event *create_event(const struct bench *bench) {
    struct device_event *event;
    assert_int_equal(device_event_create(bench->device, &event), ERR_OK);
    return event;
}

/* Holds a stream up until gate_open. */
static struct timeline *gate_shut(struct device_stream *stream) {
    struct timeline *gate;
    assert_int_equal(timeline_create(&gate), ERR_OK);
    assert_int_equal(host_stream_wait_timeline(stream, timeline_acquire(gate), 1), ERR_OK);
    return gate;
}

static void gate_open(struct timeline *gate) {
    timeline_advance(gate);
    timeline_release(gate);
}

static void assert_all(const uint8_t *bytes, uint8_t value, size_t count) {
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(bytes[i], value);
    }
}

/* --- opening ------------------------------------------------------------------------- */

static const char *best_isa(void) {
    size_t i = 0;
    while (!kernel_sets[i]->is_supported()) {
        i++;
    }
    return kernel_sets[i]->name;
}

static void test_device_open_names_what_runs(void **state) {
    (void)state;
    static const char *const isas[] = {NULL, "auto", "portable", "reference"};
    for (size_t i = 0; i < ARRAY_LEN(isas); i++) {
        struct device *device;
        struct device_info info;
        const struct device_config config = {.isa = isas[i], .threads = (int)i};
        assert_int_equal(device_open(&config, &device), ERR_OK);
        device_get_info(device, &info);
        assert_string_equal(info.backend, "host");
        assert_string_equal(info.numerics_class, KERNEL_NUMERICS_CLASS);
        assert_string_equal(info.isa, i < 2 ? best_isa() : isas[i]);
        assert_true(i == 0 ? info.threads >= 1 : info.threads == (int)i);
        assert_int_equal(info.memory_used_bytes, 0);
        assert_int_equal(info.memory_max_bytes, 0);
        device_close(device);
    }
}

static void test_device_open_refuses_unknown_names(void **state) {
    (void)state;
    static const struct device_config configs[] = {
        {.backend = "abacus"}, {.isa = "sse9"}, {.threads = -1}, {.threads = 257}};
    for (size_t i = 0; i < ARRAY_LEN(configs); i++) {
        struct device *device = NULL;
        assert_int_equal(device_open(&configs[i], &device), ERR_INVALID);
        assert_null(device);
    }
    device_close(NULL);
}

/* --- memory -------------------------------------------------------------------------- */

static void test_device_buffer_is_zeroed_and_aligned(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 63, 4097, (size_t)3 << 20};
    struct bench bench = setup();
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct device_buffer *buffer;
        void *bytes;
        assert_int_equal(device_buffer_create(bench.device, sizes[i], &buffer), ERR_OK);
        assert_int_equal(device_host_alloc(bench.device, sizes[i], &bytes), ERR_OK);
        assert_int_equal(device_buffer_bytes(buffer), sizes[i]);
        assert_int_equal((uintptr_t)((struct host_buffer *)(void *)buffer)->memory % 64, 0);
        memset(bytes, 0xff, sizes[i]);
        assert_int_equal(device_copy_out(bench.copy, bytes, device_ptr_at(buffer, 0), sizes[i]),
                         ERR_OK);
        assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
        assert_all(bytes, 0, sizes[i]);
        device_host_free(bench.device, bytes);
        device_buffer_destroy(buffer);
    }
    device_buffer_destroy(NULL);
    device_host_free(bench.device, NULL);
    teardown(&bench);
}

/* How many of the pages are there; the buffer's memory is a mapping of its own. */
static size_t pages_present(struct device_buffer *buffer, size_t pages) {
    unsigned char present[1024];
    size_t count = 0;
    assert_true(pages <= sizeof present);
    assert_int_equal(mincore(host_memory_at(device_ptr_at(buffer, 0)), pages * 4096, present), 0);
    for (size_t i = 0; i < pages; i++) {
        count += present[i] & 1u;
    }
    return count;
}

static void test_device_buffer_warms_what_is_asked_for(void **state) {
    enum { PAGES = 300 }; /* below the size that huge pages are asked for */
    struct bench bench = setup();
    struct device_buffer *buffer;
    uint8_t byte = 7;
    (void)state;
    assert_int_equal(device_buffer_create(bench.device, PAGES * 4096, &buffer), ERR_OK);
    assert_int_equal(device_copy_in(bench.copy, device_ptr_at(buffer, 100 * 4096), &byte, 1),
                     ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_int_equal(pages_present(buffer, PAGES), 1);
    device_buffer_warm(buffer, 50 * 4096, 100 * 4096);
    assert_int_equal(pages_present(buffer, PAGES), 100);
    device_buffer_warm(buffer, 0, 0);
    device_buffer_warm(buffer, 0, PAGES * 4096);
    assert_int_equal(pages_present(buffer, PAGES), PAGES);
    byte = 0;
    assert_int_equal(device_copy_out(bench.copy, &byte, device_ptr_at(buffer, 100 * 4096), 1),
                     ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_int_equal(byte, 7);
    device_buffer_destroy(buffer);
    teardown(&bench);
}

static void test_device_cap_names_what_was_asked_and_left(void **state) {
    (void)state;
    const struct device_config config = {
        .isa = "reference", .threads = 1, .memory_max_bytes = 1 << 20};
    struct device *device;
    struct device_buffer *first;
    struct device_buffer *second = NULL;
    struct device_info info;
    assert_int_equal(device_open(&config, &device), ERR_OK);
    assert_int_equal(device_buffer_create(device, 640000, &first), ERR_OK);
    device_get_info(device, &info);
    assert_int_equal(info.memory_used_bytes, 640000);
    assert_int_equal(info.memory_max_bytes, 1 << 20);
    assert_int_equal(device_buffer_create(device, 512000, &second), ERR_NOMEM);
    assert_null(second);
    assert_non_null(strstr(err_message(), "512000"));
    assert_non_null(strstr(err_message(), "408576 of 1048576"));
    assert_int_equal(device_buffer_create(device, SIZE_MAX - 8, &second), ERR_NOMEM);
    device_buffer_destroy(first);
    assert_int_equal(device_buffer_create(device, 1 << 20, &second), ERR_OK);
    device_buffer_destroy(second);
    device_get_info(device, &info);
    assert_int_equal(info.memory_used_bytes, 0);
    device_close(device);
}

static void test_device_cap_counts_weights(void **state) {
    (void)state;
    static const float values[256 * 64];
    const struct device_config config = {
        .isa = "reference", .threads = 1, .memory_max_bytes = 100000};
    const struct device_weight_params params = {
        .type = DTYPE_F32, .rows = 256, .columns = 64, .data = values};
    struct device *device;
    struct device_weight *first;
    struct device_weight *second = NULL;
    struct device_info info;
    assert_int_equal(device_open(&config, &device), ERR_OK);
    assert_int_equal(device_weight_create(device, &params, &first), ERR_OK);
    device_get_info(device, &info);
    assert_true(info.memory_used_bytes >= sizeof values);
    assert_int_equal(device_weight_create(device, &params, &second), ERR_NOMEM);
    assert_null(second);
    assert_int_equal(device_weight_rows(first), 256);
    assert_int_equal(device_weight_columns(first), 64);
    assert_int_equal(device_weight_type(first), DTYPE_F32);
    device_weight_destroy(first);
    device_weight_destroy(NULL);
    device_get_info(device, &info);
    assert_int_equal(info.memory_used_bytes, 0);
    device_close(device);
}

static size_t used_bytes(const struct device *device) {
    struct device_info info;
    device_get_info(device, &info);
    return info.memory_used_bytes;
}

static void test_device_cap_counts_scratch(void **state) {
    (void)state;
    const struct device_config config = {
        .isa = "reference", .threads = 1, .memory_max_bytes = 100000};
    struct device *device;
    assert_int_equal(device_open(&config, &device), ERR_OK);
    struct host_device *host = host_device_of(device);
    assert_int_equal(host_device_grow_scratch(host, 0), ERR_OK);
    assert_int_equal(used_bytes(device), 0);
    assert_int_equal(host_device_grow_scratch(host, 30000), ERR_OK);
    assert_int_equal(host_device_grow_scratch(host, 20000), ERR_OK);
    assert_int_equal(used_bytes(device), 30000);
    assert_int_equal(host_device_grow_scratch(host, 50000), ERR_OK);
    assert_int_equal(used_bytes(device), 50000);
    /* Old and new stand side by side for a moment, which the cap must bear. */
    assert_int_equal(host_device_grow_scratch(host, 60000), ERR_NOMEM);
    assert_non_null(strstr(err_message(), "scratch"));
    assert_int_equal(used_bytes(device), 50000);
    assert_int_equal(host_device_grow_scratch(host, 50000), ERR_OK);
    device_close(device);
}

static void test_device_weight_refuses_bad_shapes(void **state) {
    (void)state;
    static const uint8_t bytes[64];
    static const struct device_weight_params all[] = {
        {.type = DTYPE_F32, .rows = 0, .columns = 4, .data = bytes},
        {.type = DTYPE_F32, .rows = 4, .columns = -1, .data = bytes},
        {.type = DTYPE_Q8_0, .rows = 1, .columns = 33, .data = bytes},
        {.type = (enum dtype)DTYPE_COUNT, .rows = 1, .columns = 1, .data = bytes},
        {.type = DTYPE_F32, .rows = 1, .columns = 1, .data = NULL},
    };
    struct bench bench = setup();
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        struct device_weight *weight = NULL;
        assert_int_equal(device_weight_create(bench.device, &all[i], &weight), ERR_INVALID);
        assert_null(weight);
    }
    teardown(&bench);
}

/* --- copies -------------------------------------------------------------------------- */

static void test_device_copies_run_in_order(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_ptr low = device_ptr_at(bench.buffer, 0);
    struct device_ptr high = device_ptr_at(bench.buffer, BYTES / 2);
    uint8_t in[BYTES / 2];
    uint8_t seen[3][BYTES / 2];
    memset(in, 7, sizeof in);
    assert_int_equal(device_fill(bench.copy, low, 1, BYTES), ERR_OK);
    assert_int_equal(device_copy_in(bench.copy, low, in, sizeof in), ERR_OK);
    assert_int_equal(device_copy_out(bench.copy, seen[0], high, sizeof seen[0]), ERR_OK);
    assert_int_equal(device_copy(bench.copy, high, low, sizeof in), ERR_OK);
    assert_int_equal(device_fill(bench.copy, low, 9, BYTES / 2), ERR_OK);
    assert_int_equal(device_copy_out(bench.copy, seen[1], high, sizeof seen[1]), ERR_OK);
    assert_int_equal(device_copy_out(bench.copy, seen[2], low, sizeof seen[2]), ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_all(seen[0], 1, sizeof seen[0]);
    assert_all(seen[1], 7, sizeof seen[1]);
    assert_all(seen[2], 9, sizeof seen[2]);
    teardown(&bench);
}

static void test_device_copies_are_checked_when_enqueued(void **state) {
    (void)state;
    struct bench bench = setup();
    struct bench other = setup();
    uint8_t bytes[16] = {0};
    struct device_ptr end = device_ptr_at(bench.buffer, BYTES - 8);
    struct device_ptr beyond = device_ptr_at(bench.buffer, BYTES + 1);
    struct device_ptr none = device_ptr_at(NULL, 0);
    struct device_ptr start = device_ptr_at(bench.buffer, 0);
    assert_int_equal(device_copy_in(bench.copy, end, bytes, 9), ERR_INVALID);
    assert_non_null(strstr(err_message(), "9 bytes at 4088 lie outside a buffer of 4096"));
    assert_int_equal(device_copy_out(bench.copy, bytes, beyond, 0), ERR_INVALID);
    assert_int_equal(device_copy_out(bench.copy, bytes, end, SIZE_MAX), ERR_INVALID);
    assert_int_equal(device_fill(bench.copy, none, 0, 1), ERR_INVALID);
    assert_int_equal(device_copy_in(bench.copy, end, NULL, 1), ERR_INVALID);
    assert_int_equal(device_copy(bench.copy, device_ptr_at(bench.buffer, 8), start, 9),
                     ERR_INVALID);
    assert_int_equal(device_copy(bench.copy, start, end, 9), ERR_INVALID);
    assert_int_equal(device_fill(other.copy, start, 0, 1), ERR_INVALID);
    assert_int_equal(device_copy_in(bench.copy, end, NULL, 0), ERR_OK);
    assert_int_equal(device_copy(bench.copy, device_ptr_at(bench.buffer, 9), start, 9), ERR_OK);
    teardown(&other);
    teardown(&bench);
}

struct producer {
    struct bench *bench;
    _Atomic int enqueued;
};

enum { PRODUCED = 3000 };

static void *produce(void *context) {
    struct producer *producer = context;
    for (int i = 0; i < PRODUCED; i++) {
        struct device_ptr at = device_ptr_at(producer->bench->buffer, (size_t)i % BYTES);
        enum err err = device_fill(producer->bench->copy, at, (uint8_t)(1 + i / BYTES), 1);
        atomic_fetch_add(&producer->enqueued, err == ERR_OK);
    }
    return NULL;
}

static void test_device_full_stream_blocks_and_loses_nothing(void **state) {
    (void)state;
    struct bench bench = setup();
    struct producer producer = {.bench = &bench};
    struct timeline *gate = gate_shut(bench.copy);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, produce, &producer), 0);
    usleep(20000);
    assert_true(atomic_load(&producer.enqueued) < PRODUCED);
    gate_open(gate);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&producer.enqueued), PRODUCED);
    uint8_t seen[BYTES];
    assert_int_equal(device_copy_out(bench.copy, seen, device_ptr_at(bench.buffer, 0), BYTES),
                     ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_all(seen, 1, PRODUCED);
    assert_all(seen + PRODUCED, 0, BYTES - PRODUCED);
    teardown(&bench);
}

/* --- events -------------------------------------------------------------------------- */

static void test_device_event_never_recorded_counts_as_fired(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_event *event = create_event(&bench);
    assert_true(device_event_fired(event));
    assert_int_equal(device_event_wait(event), ERR_OK);
    assert_int_equal(device_stream_wait_event(bench.copy, event), ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    device_event_destroy(event);
    device_event_destroy(NULL);
    teardown(&bench);
}

static void test_device_copy_stream_overlaps_compute(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_event *event = create_event(&bench);
    struct timeline *gate = gate_shut(bench.compute);
    uint8_t seen[2] = {0};
    struct device_ptr at = device_ptr_at(bench.buffer, 0);
    assert_int_equal(device_fill(bench.compute, at, 5, 1), ERR_OK);
    assert_int_equal(device_event_record(event, bench.compute), ERR_OK);
    /* While compute is held up the copy stream runs on. */
    assert_int_equal(device_copy_out(bench.copy, &seen[0], at, 1), ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_int_equal(seen[0], 0);
    assert_false(device_event_fired(event));
    /* After the wait it does not. */
    assert_int_equal(device_stream_wait_event(bench.copy, event), ERR_OK);
    assert_int_equal(device_copy_out(bench.copy, &seen[1], at, 1), ERR_OK);
    gate_open(gate);
    assert_int_equal(device_stream_wait_idle(bench.copy), ERR_OK);
    assert_int_equal(seen[1], 5);
    assert_true(device_event_fired(event));
    assert_int_equal(device_event_wait(event), ERR_OK);
    device_event_destroy(event);
    teardown(&bench);
}

static void test_device_event_ping_pong_orders_streams(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_event *computed = create_event(&bench);
    struct device_event *copied = create_event(&bench);
    enum { ROUNDS = 300 };
    uint8_t seen[ROUNDS];
    struct device_ptr at = device_ptr_at(bench.buffer, 64);
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(device_stream_wait_event(bench.compute, copied), ERR_OK);
        assert_int_equal(device_fill(bench.compute, at, (uint8_t)i, 1), ERR_OK);
        assert_int_equal(device_event_record(computed, bench.compute), ERR_OK);
        assert_int_equal(device_stream_wait_event(bench.copy, computed), ERR_OK);
        assert_int_equal(device_copy_out(bench.copy, &seen[i], at, 1), ERR_OK);
        assert_int_equal(device_event_record(copied, bench.copy), ERR_OK);
    }
    assert_int_equal(device_event_wait(copied), ERR_OK);
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(seen[i], (uint8_t)i);
    }
    device_event_destroy(computed);
    device_event_destroy(copied);
    teardown(&bench);
}

static void test_device_event_means_its_latest_record(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_stream *waiting;
    struct device_event *event = create_event(&bench);
    struct device_event *reached = create_event(&bench);
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COPY, &waiting), ERR_OK);
    struct timeline *gate = gate_shut(bench.compute);
    assert_int_equal(device_event_record(event, bench.compute), ERR_OK);
    assert_int_equal(device_stream_wait_event(waiting, event), ERR_OK);
    assert_int_equal(device_event_record(reached, waiting), ERR_OK);
    assert_false(device_event_fired(event));
    /* Recorded anew on an idle stream: fired for who asks now, not for who waits already. */
    assert_int_equal(device_event_record(event, bench.copy), ERR_OK);
    assert_int_equal(device_event_wait(event), ERR_OK);
    assert_true(device_event_fired(event));
    usleep(2000);
    assert_false(device_event_fired(reached));
    gate_open(gate);
    assert_int_equal(device_event_wait(reached), ERR_OK);
    device_event_destroy(event);
    device_event_destroy(reached);
    device_stream_destroy(waiting);
    teardown(&bench);
}

static void test_device_event_outlives_its_stream(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_event *event = create_event(&bench);
    struct device_stream *stream;
    uint8_t seen = 0;
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COPY, &stream), ERR_OK);
    struct device_ptr at = device_ptr_at(bench.buffer, 0);
    assert_int_equal(device_fill(stream, at, 3, 1), ERR_OK);
    assert_int_equal(device_copy_out(stream, &seen, at, 1), ERR_OK);
    assert_int_equal(device_event_record(event, stream), ERR_OK);
    device_stream_destroy(stream); /* drains */
    assert_int_equal(seen, 3);
    assert_int_equal(device_stream_wait_event(bench.compute, event), ERR_OK);
    assert_int_equal(device_event_wait(event), ERR_OK);
    device_event_destroy(event);
    device_stream_destroy(NULL);
    teardown(&bench);
}

/* --- ops ----------------------------------------------------------------------------- */

static void check_gather(const char *isa) {
    const struct device_config config = {.isa = isa, .threads = 2};
    const struct batch_limits limits = {.rows_max = 4, .sequences_max = 1};
    const struct batch_sequence sequence = {.rows = 4, .state_slot = -1};
    const int32_t tokens[4] = {0};
    const int32_t output_rows[3] = {2, 0, 3};
    const struct batch_layout layout = {.sequences = &sequence,
                                        .sequence_count = 1,
                                        .tokens = tokens,
                                        .output_rows = output_rows,
                                        .output_count = 3};
    const float in[4][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}};
    const float expected[3][2] = {{5, 6}, {1, 2}, {7, 8}};
    float out[3][2] = {{0}};
    struct device *device;
    struct device_buffer *buffer;
    struct device_stream *stream;
    struct batch *batch;
    assert_int_equal(device_open(&config, &device), ERR_OK);
    assert_int_equal(device_buffer_create(device, BYTES, &buffer), ERR_OK);
    assert_int_equal(device_stream_create(device, DEVICE_STREAM_COMPUTE, &stream), ERR_OK);
    assert_int_equal(batch_create(device, &limits, &batch), ERR_OK);
    assert_int_equal(batch_set(batch, stream, &layout), ERR_OK);
    struct op_gather_rows gather = {.batch = batch,
                                    .in = device_ptr_at(buffer, 0),
                                    .columns = 2,
                                    .out = device_ptr_at(buffer, 64)};
    assert_int_equal(device_copy_in(stream, gather.in, in, sizeof in), ERR_OK);
    assert_int_equal(op_gather_rows(stream, &gather), ERR_OK);
    assert_int_equal(device_copy_out(stream, out, gather.out, sizeof out), ERR_OK);
    assert_int_equal(device_stream_wait_idle(stream), ERR_OK);
    assert_memory_equal(out, expected, sizeof out);
    batch_destroy(batch);
    device_stream_destroy(stream);
    device_buffer_destroy(buffer);
    device_close(device);
}

static void test_device_runs_ops_between_copies(void **state) {
    (void)state;
    check_gather("reference");
    check_gather("portable");
    check_gather("auto");
}

/* Both streams want the workers at once; each must get its own sums. */
static void test_device_compute_streams_share_the_workers(void **state) {
    (void)state;
    enum { ROWS = 16, COLUMNS = 64, ROUNDS = 100, VALUES = ROWS * COLUMNS };
    static float in[2][VALUES];
    static float ones[COLUMNS];
    static float out[2][ROUNDS][VALUES];
    const struct device_config config = {.threads = 2};
    struct device *device;
    struct device_buffer *buffer;
    struct device_stream *streams[2];
    assert_int_equal(device_open(&config, &device), ERR_OK);
    assert_int_equal(device_buffer_create(device, sizeof in * 2 + sizeof ones, &buffer), ERR_OK);
    for (int c = 0; c < COLUMNS; c++) {
        ones[c] = 1.0f;
    }
    for (int s = 0; s < 2; s++) {
        for (int i = 0; i < VALUES; i++) {
            in[s][i] = s == 0 ? 3.0f : -5.0f;
        }
        assert_int_equal(device_stream_create(device, DEVICE_STREAM_COMPUTE, &streams[s]), ERR_OK);
    }
    struct device_ptr weight = device_ptr_at(buffer, sizeof in * 2);
    assert_int_equal(device_copy_in(streams[0], weight, ones, sizeof ones), ERR_OK);
    assert_int_equal(device_stream_wait_idle(streams[0]), ERR_OK);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t s = 0; s < 2; s++) {
            const struct op_rms_norm norm = {.rows = ROWS,
                                             .columns = COLUMNS,
                                             .in = device_ptr_at(buffer, sizeof in[0] * s),
                                             .in_stride = COLUMNS,
                                             .weight = weight,
                                             .out = device_ptr_at(buffer, sizeof in[0] * (2 + s)),
                                             .out_stride = COLUMNS};
            assert_int_equal(device_copy_in(streams[s], norm.in, in[s], sizeof in[s]), ERR_OK);
            assert_int_equal(op_rms_norm(streams[s], &norm), ERR_OK);
            assert_int_equal(
                device_copy_out(streams[s], out[s][round], norm.out, sizeof out[s][round]), ERR_OK);
        }
    }
    for (int s = 0; s < 2; s++) {
        assert_int_equal(device_stream_wait_idle(streams[s]), ERR_OK);
        for (int i = 0; i < ROUNDS * VALUES; i++) {
            assert_true(out[s][i / VALUES][i % VALUES] == (s == 0 ? 1.0f : -1.0f));
        }
        device_stream_destroy(streams[s]);
    }
    device_buffer_destroy(buffer);
    device_close(device);
}

static void test_device_copy_stream_refuses_compute(void **state) {
    (void)state;
    struct bench bench = setup();
    struct op_rms_norm norm = {.rows = 1,
                               .columns = 16,
                               .in = device_ptr_at(bench.buffer, 0),
                               .in_stride = 16,
                               .weight = device_ptr_at(bench.buffer, 64),
                               .out = device_ptr_at(bench.buffer, 128),
                               .out_stride = 16};
    assert_int_equal(op_rms_norm(bench.compute, &norm), ERR_OK);
    assert_int_equal(op_rms_norm(bench.copy, &norm), ERR_INVALID);
    assert_non_null(strstr(err_message(), "rms_norm"));
    norm.out = device_ptr_at(bench.buffer, BYTES - 4);
    assert_int_equal(op_rms_norm(bench.compute, &norm), ERR_INVALID);
    assert_non_null(strstr(err_message(), "out"));
    norm.rows = 0;
    assert_int_equal(op_rms_norm(bench.compute, &norm), ERR_OK);
    struct op_embed embed = {0};
    assert_int_equal(op_embed(bench.compute, &embed), ERR_INVALID);
    struct op_state_clear clear = {.pool = bench.buffer, .slot_bytes = 64, .slot = 8};
    assert_int_equal(op_state_clear(bench.copy, &clear), ERR_OK);
    clear.slot = 64;
    assert_int_equal(op_state_clear(bench.copy, &clear), ERR_INVALID);
    teardown(&bench);
}

/* --- failure ------------------------------------------------------------------------- */

static void test_device_failure_reaches_every_wait(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_event *event = create_event(&bench);
    uint8_t seen[2] = {1, 1};
    struct device_ptr at = device_ptr_at(bench.buffer, 0);
    struct timeline *gate = gate_shut(bench.copy);
    host_device_plan_failure(bench.device, 1);
    assert_int_equal(device_copy_out(bench.copy, &seen[0], at, 1), ERR_OK);
    assert_int_equal(device_copy_out(bench.copy, &seen[1], at, 1), ERR_OK);
    assert_int_equal(device_event_record(event, bench.copy), ERR_OK);
    assert_int_equal(device_stream_wait_event(bench.compute, event), ERR_OK);
    gate_open(gate);
    assert_int_equal(device_event_wait(event), ERR_DEVICE);
    assert_non_null(strstr(err_message(), "a planned failure"));
    assert_int_equal(seen[0], 0);
    assert_int_equal(seen[1], 1);
    assert_int_equal(device_stream_wait_idle(bench.compute), ERR_DEVICE);
    assert_int_equal(device_copy_out(bench.copy, &seen[0], at, 1), ERR_DEVICE);
    assert_int_equal(device_event_record(event, bench.copy), ERR_DEVICE);
    assert_int_equal(device_stream_wait_event(bench.copy, event), ERR_DEVICE);
    device_event_destroy(event);
    teardown(&bench);
}

static void test_device_uses_no_processor_when_idle(void **state) {
    (void)state;
    struct bench bench = setup();
    struct rusage before;
    struct rusage after;
    assert_int_equal(device_fill(bench.compute, device_ptr_at(bench.buffer, 0), 0, 1), ERR_OK);
    assert_int_equal(device_stream_wait_idle(bench.compute), ERR_OK);
    usleep(20000);
    getrusage(RUSAGE_SELF, &before);
    usleep(200000);
    getrusage(RUSAGE_SELF, &after);
    int64_t used_us = (int64_t)(after.ru_utime.tv_sec - before.ru_utime.tv_sec +
                                after.ru_stime.tv_sec - before.ru_stime.tv_sec) *
                          1000000 +
                      after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
                      before.ru_stime.tv_usec;
    assert_true(used_us < 20000);
    teardown(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_open_names_what_runs),
        cmocka_unit_test(test_device_open_refuses_unknown_names),
        cmocka_unit_test(test_device_buffer_is_zeroed_and_aligned),
        cmocka_unit_test(test_device_buffer_warms_what_is_asked_for),
        cmocka_unit_test(test_device_cap_names_what_was_asked_and_left),
        cmocka_unit_test(test_device_cap_counts_weights),
        cmocka_unit_test(test_device_cap_counts_scratch),
        cmocka_unit_test(test_device_weight_refuses_bad_shapes),
        cmocka_unit_test(test_device_copies_run_in_order),
        cmocka_unit_test(test_device_copies_are_checked_when_enqueued),
        cmocka_unit_test(test_device_full_stream_blocks_and_loses_nothing),
        cmocka_unit_test(test_device_event_never_recorded_counts_as_fired),
        cmocka_unit_test(test_device_copy_stream_overlaps_compute),
        cmocka_unit_test(test_device_event_ping_pong_orders_streams),
        cmocka_unit_test(test_device_event_means_its_latest_record),
        cmocka_unit_test(test_device_event_outlives_its_stream),
        cmocka_unit_test(test_device_runs_ops_between_copies),
        cmocka_unit_test(test_device_compute_streams_share_the_workers),
        cmocka_unit_test(test_device_copy_stream_refuses_compute),
        cmocka_unit_test(test_device_failure_reaches_every_wait),
        cmocka_unit_test(test_device_uses_no_processor_when_idle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
