/* Numbered jobs over several threads. */
#include "tools/bench_clients.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

#include <cmocka.h>

enum { JOBS = 500 };

struct ledger_of_jobs {
    atomic_int runs[JOBS];
    atomic_int begun;
    long long failing; /* -1: none */
};

static enum err run(void *context, long long job) {
    struct ledger_of_jobs *seen = context;
    atomic_fetch_add(&seen->runs[job], 1);
    atomic_fetch_add(&seen->begun, 1);
    return job == seen->failing ? err_fail(ERR_FULL, "job %lld", job) : ERR_OK;
}

static void test_bench_clients_run_every_job_once(void **state) {
    (void)state;
    for (int in_flight = 1; in_flight <= 16; in_flight *= 4) {
        struct ledger_of_jobs seen = {.failing = -1};
        struct bench_clients clients = {
            .in_flight = in_flight, .jobs = JOBS, .run = run, .context = &seen};
        assert_int_equal(bench_clients_run(&clients), ERR_OK);
        for (int i = 0; i < JOBS; i++) {
            assert_int_equal(seen.runs[i], 1);
        }
    }
}

static void test_bench_clients_stop_at_a_failure_and_name_it(void **state) {
    (void)state;
    struct ledger_of_jobs seen = {.failing = 3};
    struct bench_clients clients = {.in_flight = 2, .jobs = JOBS, .run = run, .context = &seen};
    err_clear();
    assert_int_equal(bench_clients_run(&clients), ERR_FULL);
    assert_string_equal(err_message(), "job 3");
    clients.in_flight = 1;
    seen = (struct ledger_of_jobs){.failing = 3};
    assert_int_equal(bench_clients_run(&clients), ERR_FULL);
    assert_int_equal(seen.begun, 4);
}

static void test_bench_clients_without_jobs_are_done(void **state) {
    (void)state;
    struct bench_clients clients = {.in_flight = 4, .run = run};
    assert_int_equal(bench_clients_run(&clients), ERR_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_clients_run_every_job_once),
        cmocka_unit_test(test_bench_clients_stop_at_a_failure_and_name_it),
        cmocka_unit_test(test_bench_clients_without_jobs_are_done),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
