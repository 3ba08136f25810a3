#include "gpu/host/worker_pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <xmmintrin.h>

enum { UNITS_MAX = 5000, FLUSH_TO_ZERO = 0x8000 };

struct tally {
    _Atomic unsigned runs[UNITS_MAX];
    _Atomic int bad_shares;
    size_t units;
    size_t grain;
    int threads;
};

static struct worker_pool *create(int threads) {
    struct worker_pool *pool;
    assert_int_equal(worker_pool_create(threads, &pool), ERR_OK);
    assert_int_equal(worker_pool_threads(pool), threads);
    return pool;
}

static void count_units(void *context, size_t begin, size_t end, int worker) {
    struct tally *tally = context;
    if (begin >= end || end > tally->units || end - begin > tally->grain ||
        begin % tally->grain != 0 || worker < 0 || worker >= tally->threads) {
        atomic_fetch_add(&tally->bad_shares, 1);
        return;
    }
    for (size_t i = begin; i < end; i++) {
        atomic_fetch_add_explicit(&tally->runs[i], 1, memory_order_relaxed);
    }
}

static void check_once(struct worker_pool *pool, size_t units, size_t grain) {
    static struct tally tally;
    memset(&tally, 0, sizeof tally);
    tally.units = units;
    tally.grain = grain;
    tally.threads = worker_pool_threads(pool);
    worker_pool_run(pool, units, grain, count_units, &tally);
    assert_int_equal(atomic_load(&tally.bad_shares), 0);
    for (size_t i = 0; i < UNITS_MAX; i++) {
        assert_int_equal(atomic_load(&tally.runs[i]), i < units);
    }
}

static void test_worker_pool_runs_every_unit_once(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 5};
    static const size_t units[] = {0, 1, 2, 3, 7, 64, 1000, 4097};
    static const size_t grains[] = {1, 2, 5, 64, 5000};
    for (size_t t = 0; t < ARRAY_LEN(threads); t++) {
        struct worker_pool *pool = create(threads[t]);
        for (size_t u = 0; u < ARRAY_LEN(units); u++) {
            for (size_t g = 0; g < ARRAY_LEN(grains); g++) {
                check_once(pool, units[u], grains[g]);
            }
        }
        worker_pool_destroy(pool);
    }
}

struct sums {
    const uint32_t *in;
    uint32_t *out;
};

static void add_one(void *context, size_t begin, size_t end, int worker) {
    const struct sums *sums = context;
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        sums->out[i] = sums->in[i] + 1;
    }
}

/* Plain memory: each call reads what the workers of the call before wrote. */
static void test_worker_pool_orders_calls(void **state) {
    (void)state;
    enum { ROUNDS = 4000, UNITS = 24 };
    uint32_t values[2][UNITS] = {{0}};
    struct worker_pool *pool = create(2);
    for (uint32_t round = 0; round < ROUNDS; round++) {
        struct sums sums = {values[round % 2], values[(round + 1) % 2]};
        worker_pool_run(pool, UNITS, 1 + round % 5, add_one, &sums);
    }
    for (size_t i = 0; i < UNITS; i++) {
        assert_int_equal(values[ROUNDS % 2][i], ROUNDS);
    }
    worker_pool_destroy(pool);
}

static void test_worker_pool_wakes_after_sleep(void **state) {
    (void)state;
    struct worker_pool *pool = create(3);
    for (int i = 0; i < 20; i++) {
        usleep(2000);
        check_once(pool, 100, 1);
    }
    worker_pool_destroy(pool);
}

static int64_t cpu_us(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
           usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

static void test_worker_pool_sleeps_when_idle(void **state) {
    (void)state;
    struct worker_pool *pool = create(2);
    check_once(pool, 100, 1);
    usleep(20000);
    int64_t before_us = cpu_us();
    usleep(200000);
    assert_true(cpu_us() - before_us < 20000);
    worker_pool_destroy(pool);
}

/* Each share waits for a second worker, so that both must take part. */
struct meeting {
    _Atomic int arrived;
    _Atomic unsigned states[2];
};

static void meet(void *context, size_t begin, size_t end, int worker) {
    struct meeting *meeting = context;
    (void)end;
    (void)worker;
    atomic_store(&meeting->states[begin], _mm_getcsr());
    atomic_fetch_add(&meeting->arrived, 1);
    while (atomic_load(&meeting->arrived) < 2) {
        usleep(10);
    }
}

static void test_worker_pool_sets_float_state_everywhere(void **state) {
    (void)state;
    /* Exception flags are sticky and mean nothing; the control bits are from bit 6 on. */
    const unsigned control = 0xffc0;
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | FLUSH_TO_ZERO);
    struct worker_pool *pool = create(2);
    struct meeting meeting = {0};
    worker_pool_run(pool, 2, 1, meet, &meeting);
    unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_int_equal(atomic_load(&meeting.states[0]) & control, 0x1f80);
    assert_int_equal(atomic_load(&meeting.states[1]) & control, 0x1f80);
    assert_true(after & FLUSH_TO_ZERO);
    worker_pool_destroy(pool);
}

static void test_worker_pool_refuses_bad_thread_counts(void **state) {
    (void)state;
    struct worker_pool *pool = NULL;
    assert_int_equal(worker_pool_create(0, &pool), ERR_INVALID);
    assert_int_equal(worker_pool_create(257, &pool), ERR_INVALID);
    assert_null(pool);
    worker_pool_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_pool_runs_every_unit_once),
        cmocka_unit_test(test_worker_pool_orders_calls),
        cmocka_unit_test(test_worker_pool_wakes_after_sleep),
        cmocka_unit_test(test_worker_pool_sleeps_when_idle),
        cmocka_unit_test(test_worker_pool_sets_float_state_everywhere),
        cmocka_unit_test(test_worker_pool_refuses_bad_thread_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
