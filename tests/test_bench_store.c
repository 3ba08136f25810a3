/* The store directory of a benchmark as files. */
#include "tools/bench_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { STATE_BYTES = 3 << 20, LEDGER_BYTES = 1 << 20 };

static void write_file(const char *store, const char *name, size_t bytes) {
    char path[BENCH_STORE_PATH_BYTES + 32];
    char *content = malloc(bytes);
    assert_non_null(content);
    memset(content, 'x', bytes);
    snprintf(path, sizeof path, "%s/%s", store, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(content, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    free(content);
}

static void make_folder(const char *store, const char *name) {
    char path[BENCH_STORE_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/%s", store, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void make_store(char store[BENCH_STORE_PATH_BYTES]) {
    assert_int_equal(bench_store_make(store), ERR_OK);
    make_folder(store, "ledger");
    make_folder(store, "state");
    make_folder(store, "state/00");
    write_file(store, "secret", 64);
    write_file(store, "ledger/data.mdb", LEDGER_BYTES);
    write_file(store, "state/data.mdb", STATE_BYTES / 2);
    write_file(store, "state/00/data.mdb", STATE_BYTES / 2);
}

static void test_bench_store_is_removed_with_all_in_it(void **state) {
    (void)state;
    char store[BENCH_STORE_PATH_BYTES];
    make_store(store);
    assert_int_equal(bench_store_remove(store), ERR_OK);
    assert_int_not_equal(access(store, F_OK), 0);
    assert_int_equal(bench_store_remove(store), ERR_NOT_FOUND);
}

static void test_bench_store_reads_state_and_nothing_else(void **state) {
    (void)state;
    char store[BENCH_STORE_PATH_BYTES];
    struct bench_store_reading reading;
    struct bench_store_size size;
    make_store(store);
    assert_int_equal(bench_store_read(store, &reading), ERR_OK);
    assert_int_equal(reading.bytes, STATE_BYTES);
    assert_true(reading.seconds > 0);
    double resident = -1;
    assert_int_equal(bench_store_drop(store, &resident), ERR_OK); /* and syncs */
    assert_true(resident >= 0 && resident <= 1);
    assert_int_equal(bench_store_measure(store, &size), ERR_OK);
    assert_in_range(size.state_bytes, STATE_BYTES, STATE_BYTES + (64 << 10));
    assert_in_range(size.ledger_bytes, 1, LEDGER_BYTES + (64 << 10));
    assert_int_equal(bench_store_remove(store), ERR_OK);
}

static void test_bench_store_that_is_not_there_is_named(void **state) {
    (void)state;
    struct bench_store_reading reading;
    struct bench_store_size size;
    double resident;
    assert_int_equal(bench_store_read("/nonexistent", &reading), ERR_NOT_FOUND);
    assert_non_null(strstr(err_message(), "/nonexistent/state"));
    assert_int_equal(bench_store_drop("/nonexistent", &resident), ERR_NOT_FOUND);
    assert_int_equal(bench_store_measure("/nonexistent", &size), ERR_NOT_FOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_store_is_removed_with_all_in_it),
        cmocka_unit_test(test_bench_store_reads_state_and_nothing_else),
        cmocka_unit_test(test_bench_store_that_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
