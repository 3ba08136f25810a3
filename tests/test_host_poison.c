#include "gpu/host/host_poison.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu/host/host_device.h"
#include "gpu/host/host_memory.h"
#include "gpu/op.h"

/* Of the AddressSanitizer runtime; not there in other builds. */
extern int __asan_address_is_poisoned(const volatile void *address) __attribute__((weak));

enum { BYTES = 4096 };

struct bench {
    struct device *device;
    struct device_buffer *buffer;
    volatile uint8_t *memory;
};

/* One thread and no stream, so that fork takes everything along. */
static struct bench setup(void) {
    struct bench bench;
    const struct device_config config = {.isa = "portable", .threads = 1};
    if (!host_poison_is_active()) {
        assert_null(__asan_address_is_poisoned);
        print_message("no AddressSanitizer in this build: nothing is poisoned\n");
        skip();
    }
    assert_int_equal(device_open(&config, &bench.device), ERR_OK);
    assert_int_equal(device_buffer_create(bench.device, BYTES, &bench.buffer), ERR_OK);
    bench.memory = ((struct host_buffer *)(void *)bench.buffer)->memory;
    return bench;
}

static void teardown(struct bench *bench) {
    device_buffer_destroy(bench->buffer);
    device_close(bench->device);
}

/* Runs TOUCH in a child; *out_report gets what it wrote to standard error. Returns wait's status.
 */
static int run_child(void (*touch)(const struct bench *), const struct bench *bench,
                     char *out_report, size_t report_bytes) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        touch(bench);
        _exit(0);
    }
    close(ends[1]);
    size_t used = 0;
    char chunk[512];
    for (ssize_t got; (got = read(ends[0], chunk, sizeof chunk)) > 0;) {
        size_t room = report_bytes - 1 - used;
        size_t kept = (size_t)got < room ? (size_t)got : room;
        memcpy(out_report + used, chunk, kept);
        used += kept;
    }
    out_report[used] = '\0';
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void assert_dies(void (*touch)(const struct bench *), const struct bench *bench) {
    char report[4096];
    int status = run_child(touch, bench, report, sizeof report);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_non_null(strstr(report, "use-after-poison"));
}

static void read_outside_work(const struct bench *bench) {
    (void)bench->memory[100];
}

static void write_outside_work(const struct bench *bench) {
    bench->memory[BYTES - 1] = 1;
}

static void leave_the_held_range(const struct bench *bench) {
    struct host_device *device = host_device_of(bench->device);
    const struct host_poison_range range = {(const void *)(uintptr_t)bench->memory, 64};
    struct host_poison_hold *hold = host_poison_open_ranges(device->poison, &range, 1);
    bench->memory[63] = 1; /* held */
    fputs("held bytes are plain\n", stderr);
    bench->memory[64] = 1;
    host_poison_close(device->poison, hold);
}

static void test_host_poison_reports_a_touch_outside_work(void **state) {
    (void)state;
    struct bench bench = setup();
    assert_dies(read_outside_work, &bench);
    assert_dies(write_outside_work, &bench);
    teardown(&bench);
}

static void test_host_poison_reports_a_touch_beside_the_held_range(void **state) {
    (void)state;
    struct bench bench = setup();
    char report[4096];
    int status = run_child(leave_the_held_range, &bench, report, sizeof report);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_non_null(strstr(report, "held bytes are plain"));
    assert_non_null(strstr(report, "use-after-poison"));
    teardown(&bench);
}

/* Asserts that exactly the bytes [begin, end) are plain. */
static void assert_plain(const struct bench *bench, size_t begin, size_t end) {
    for (size_t i = 0; i < BYTES; i++) {
        int is_poisoned = __asan_address_is_poisoned(&bench->memory[i]) != 0;
        assert_int_equal(is_poisoned, i < begin || i >= end);
    }
}

static struct host_poison_hold *open_range(const struct bench *bench, size_t begin, size_t end) {
    const struct host_poison_range range = {(const void *)(uintptr_t)(bench->memory + begin),
                                            end - begin};
    return host_poison_open_ranges(host_device_of(bench->device)->poison, &range, 1);
}

static void test_host_poison_counts_overlapping_holds(void **state) {
    (void)state;
    struct bench bench = setup();
    struct host_poison *poison = host_device_of(bench.device)->poison;
    assert_plain(&bench, 0, 0);
    struct host_poison_hold *wide = open_range(&bench, 0, 1024);
    struct host_poison_hold *inner = open_range(&bench, 256, 512);
    struct host_poison_hold *beside = open_range(&bench, 512, 600);
    assert_plain(&bench, 0, 1024);
    host_poison_close(poison, wide);
    assert_plain(&bench, 256, 600);
    struct host_poison_hold *same = open_range(&bench, 256, 512);
    host_poison_close(poison, inner);
    assert_plain(&bench, 256, 600);
    host_poison_close(poison, same);
    assert_plain(&bench, 512, 600);
    host_poison_close(poison, beside);
    assert_plain(&bench, 0, 0);
    teardown(&bench);
}

static void test_host_poison_holds_what_a_command_names(void **state) {
    (void)state;
    struct bench bench = setup();
    struct host_poison *poison = host_device_of(bench.device)->poison;
    const struct command command = {
        .kind = COMMAND_STATE_CLEAR,
        .state_clear = {.pool = bench.buffer, .slot_bytes = 512, .slot = 3}};
    struct host_poison_hold *hold = host_poison_open_command(poison, &command);
    assert_plain(&bench, 1536, 2048);
    host_poison_close(poison, hold);
    assert_plain(&bench, 0, 0);
    teardown(&bench);
}

static void test_host_poison_returns_after_every_item(void **state) {
    (void)state;
    struct bench bench = setup();
    struct device_stream *streams[2];
    uint8_t seen[2][512];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COPY, &streams[i]),
                         ERR_OK);
    }
    /* Two streams read the same bytes at once, again and again: neither poisons the other's. */
    for (int i = 0; i < 2000; i++) {
        struct device_ptr from = device_ptr_at(bench.buffer, (size_t)(i % 7) * 64);
        assert_int_equal(device_copy_out(streams[i % 2], seen[i % 2], from, sizeof seen[0]),
                         ERR_OK);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(device_stream_wait_idle(streams[i]), ERR_OK);
        device_stream_destroy(streams[i]);
    }
    assert_plain(&bench, 0, 0);
    teardown(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_poison_reports_a_touch_outside_work),
        cmocka_unit_test(test_host_poison_reports_a_touch_beside_the_held_range),
        cmocka_unit_test(test_host_poison_counts_overlapping_holds),
        cmocka_unit_test(test_host_poison_holds_what_a_command_names),
        cmocka_unit_test(test_host_poison_returns_after_every_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
