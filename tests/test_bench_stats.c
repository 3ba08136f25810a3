/* What benchmarks say of repeated measurements. */
#include "tools/bench_stats.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void check(const double *want, struct bench_stats got) {
    assert_true(got.min == want[0]);
    assert_true(got.median == want[1]);
    assert_true(got.p95 == want[2]);
    assert_true(got.max == want[3]);
}

static void test_bench_stats_of_one_value_is_that_value(void **state) {
    (void)state;
    double values[] = {7};
    check((double[]){7, 7, 7, 7}, bench_stats_of(values, 1));
}

static void test_bench_stats_median_is_the_middle_of_the_sorted(void **state) {
    (void)state;
    double odd[] = {9, 1, 5};
    double even[] = {10, 1, 4, 2};
    check((double[]){1, 5, 9, 9}, bench_stats_of(odd, 3));
    check((double[]){1, 3, 10, 10}, bench_stats_of(even, 4));
}

/* One outlier of twenty lies beyond it, two do not. */
static void test_bench_stats_p95_leaves_out_a_twentieth(void **state) {
    (void)state;
    double values[100];
    for (int count = 20; count <= 100; count += 20) {
        for (int i = 0; i < count; i++) {
            values[i] = count - i;
        }
        assert_true(bench_stats_of(values, (size_t)count).p95 == count * 19 / 20);
    }
    double few[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 100};
    assert_true(bench_stats_of(few, 10).p95 == 100);
}

static void test_bench_stats_of_nothing_is_zero(void **state) {
    (void)state;
    assert_int_equal(bench_stats_of(NULL, 0).count, 0);
    check((double[]){0, 0, 0, 0}, bench_stats_of(NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bench_stats_of_one_value_is_that_value),
        cmocka_unit_test(test_bench_stats_median_is_the_middle_of_the_sorted),
        cmocka_unit_test(test_bench_stats_p95_leaves_out_a_twentieth),
        cmocka_unit_test(test_bench_stats_of_nothing_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
