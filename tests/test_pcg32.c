#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/object.h"
#include "base/pcg32.h"

/* What the published demonstration program prints for seed 42, sequence 54. */
static const uint32_t published[] = {0xa15c02b7, 0x7b47f409, 0xba1d3330,
                                     0x83d2f293, 0xbfa4784b, 0xcbed606e};

static void test_pcg32_gives_the_published_values(void **state) {
    (void)state;
    struct pcg32 generator;
    pcg32_init(&generator, 42, 54);
    for (size_t i = 0; i < ARRAY_LEN(published); i++) {
        assert_int_equal(pcg32_next(&generator), published[i]);
    }
}

static void test_pcg32_unit_is_made_of_two_outputs(void **state) {
    (void)state;
    struct pcg32 generator;
    pcg32_init(&generator, 42, 54);
    for (size_t i = 0; i < ARRAY_LEN(published); i += 2) {
        uint64_t both = (uint64_t)published[i] << 32 | published[i + 1];
        double unit = pcg32_next_unit(&generator);
        assert_true(unit * 0x1p53 == (double)(both >> 11));
    }
}

static void test_pcg32_unit_stays_below_one(void **state) {
    (void)state;
    struct pcg32 generator;
    pcg32_init(&generator, 1, 1);
    double sum = 0;
    double least = 1;
    double most = 0;
    enum { DRAWS = 100000 };
    for (int i = 0; i < DRAWS; i++) {
        double unit = pcg32_next_unit(&generator);
        assert_true(unit >= 0 && unit < 1);
        sum += unit;
        least = unit < least ? unit : least;
        most = unit > most ? unit : most;
    }
    /* The mean's standard deviation is 0.0009. */
    assert_true(sum / DRAWS > 0.495 && sum / DRAWS < 0.505);
    assert_true(least < 0.001 && most > 0.999);
}

static void test_pcg32_seeds_and_sequences_differ(void **state) {
    (void)state;
    const uint64_t seeds[][2] = {{0, 0}, {1, 0}, {0, 1}, {UINT64_MAX, 0}, {1ull << 63, 7}};
    uint64_t firsts[ARRAY_LEN(seeds)];
    for (size_t i = 0; i < ARRAY_LEN(seeds); i++) {
        struct pcg32 generator;
        pcg32_init(&generator, seeds[i][0], seeds[i][1]);
        uint64_t upper = pcg32_next(&generator);
        firsts[i] = upper << 32 | pcg32_next(&generator);
        for (size_t j = 0; j < i; j++) {
            assert_true(firsts[i] != firsts[j]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pcg32_gives_the_published_values),
        cmocka_unit_test(test_pcg32_unit_is_made_of_two_outputs),
        cmocka_unit_test(test_pcg32_unit_stays_below_one),
        cmocka_unit_test(test_pcg32_seeds_and_sequences_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
