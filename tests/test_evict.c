#include "store/evict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct evict_candidate sample(void) {
    return (struct evict_candidate){.tokens = 1000, .bytes = 1 << 20, .age_ms = 1000, .hits = 1};
}

static void test_evict_keeps_what_saves_most_for_a_byte(void **state) {
    (void)state;
    struct evict_candidate base = sample();
    struct evict_candidate other = sample();
    other.tokens *= 2;
    assert_true(evict_worth(&other) > evict_worth(&base));
    other = sample();
    other.bytes *= 2;
    assert_true(evict_worth(&other) < evict_worth(&base));
    other = sample();
    other.age_ms = 1000 * 3600 * 24 * 3;
    assert_true(evict_worth(&other) < evict_worth(&base));
    other = sample();
    other.hits = 5;
    assert_true(evict_worth(&other) > evict_worth(&base));
    other = sample();
    other.is_superseded = 1;
    assert_true(evict_worth(&other) < evict_worth(&base));
    other.is_expired = 1;
    assert_true(evict_worth(&other) < 0);
}

static void test_evict_chooses_the_least_worthy(void **state) {
    (void)state;
    double worths[4];
    int items[4];
    struct evict_choice choice = {.worths = worths, .count_max = 4};
    for (int i = 0; i < 100; i++) {
        int value = (i * 37) % 100;
        size_t at = evict_offer(&choice, value);
        if (at < choice.count_max) {
            items[at] = value;
        }
    }
    assert_int_equal(choice.count, 4);
    int sum = 0;
    for (size_t i = 0; i < 4; i++) {
        assert_true(items[i] < 4);
        sum += items[i];
    }
    assert_int_equal(sum, 0 + 1 + 2 + 3);
}

static void test_evict_never_chooses_what_is_pinned(void **state) {
    (void)state;
    double worths[2];
    struct evict_choice choice = {.worths = worths, .count_max = 2};
    struct evict_candidate pinned = sample();
    pinned.is_pinned = 1;
    pinned.is_expired = 1;
    assert_int_equal(evict_offer(&choice, evict_worth(&pinned)), 2);
    assert_int_equal(choice.count, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evict_keeps_what_saves_most_for_a_byte),
        cmocka_unit_test(test_evict_chooses_the_least_worthy),
        cmocka_unit_test(test_evict_never_chooses_what_is_pinned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
