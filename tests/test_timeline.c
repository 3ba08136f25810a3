#include "gpu/host/timeline.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { WAITERS = 6, ITEMS = 20000 };

struct waiter {
    struct timeline *timeline;
    uint64_t first;
    uint64_t step;
    int is_early; /* a wait returned before its count was reached */
    pthread_t thread;
};

static void *wait_for_many(void *context) {
    struct waiter *waiter = context;
    for (uint64_t count = waiter->first; count <= ITEMS; count += waiter->step) {
        timeline_wait(waiter->timeline, count);
        waiter->is_early |= timeline_count(waiter->timeline) < count;
    }
    return NULL;
}

/* Every wait ends, whichever counts others wait for at the same time: a lost ring hangs here. */
static void test_timeline_ends_every_wait(void **state) {
    static const uint64_t steps[WAITERS] = {1, 3, 7, 64, 999, ITEMS};
    struct waiter waiters[WAITERS];
    struct timeline *timeline;
    (void)state;
    assert_int_equal(timeline_create(&timeline), ERR_OK);
    for (int i = 0; i < WAITERS; i++) {
        waiters[i] = (struct waiter){.timeline = timeline, .first = steps[i], .step = steps[i]};
        assert_int_equal(pthread_create(&waiters[i].thread, NULL, wait_for_many, &waiters[i]), 0);
    }
    for (int i = 0; i < ITEMS; i++) {
        timeline_advance(timeline);
        if (i % 512 == 0) {
            usleep(100); /* long enough that waiters go to sleep */
        }
    }
    for (int i = 0; i < WAITERS; i++) {
        pthread_join(waiters[i].thread, NULL);
        assert_false(waiters[i].is_early);
    }
    assert_int_equal(timeline_count(timeline), ITEMS);
    timeline_release(timeline);
}

struct sleeper {
    struct timeline *timeline;
    long sleeps; /* how often the kernel put it to sleep */
};

static void *wait_for_last(void *context) {
    struct sleeper *sleeper = context;
    struct rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    timeline_wait(sleeper->timeline, ITEMS);
    getrusage(RUSAGE_THREAD, &after);
    sleeper->sleeps = after.ru_nvcsw - before.ru_nvcsw;
    return NULL;
}

/* Whoever waits for the last item of many sleeps through the others: he must not take a processor
 * from those that work. */
static void test_timeline_wakes_nobody_early(void **state) {
    enum { PAUSES = 40 };
    struct sleeper sleeper = {0};
    pthread_t thread;
    (void)state;
    assert_int_equal(timeline_create(&sleeper.timeline), ERR_OK);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_last, &sleeper), 0);
    for (int i = 0; i < ITEMS; i++) {
        if (i % (ITEMS / PAUSES) == 0) {
            usleep(2000); /* it has spun its time and sleeps */
        }
        timeline_advance(sleeper.timeline);
    }
    pthread_join(thread, NULL);
    timeline_release(sleeper.timeline);
    assert_in_range(sleeper.sleeps, 0, PAUSES / 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timeline_ends_every_wait),
        cmocka_unit_test(test_timeline_wakes_nobody_early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
