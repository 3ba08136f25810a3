#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/elementary_vector.h"
#include "base/object.h"
#include "base/pcg32.h"

static double exp_of(double x) {
    elementary_vector_exp(&x, 1);
    return x;
}

static void test_elementary_vector_exp_is_close(void **state) {
    (void)state;
    struct pcg32 chance;
    pcg32_init(&chance, 5, 5);
    for (int i = 0; i < 200000; i++) {
        double x = -pcg32_next_unit(&chance) * (i % 2 == 0 ? 708.0 : 2.0);
        long double expected = expl((long double)x);
        if (fabsl(exp_of(x) - expected) > 1e-15L * expected) {
            fail_msg("e^%a is %a", x, exp_of(x));
        }
    }
}

static void test_elementary_vector_exp_ends_of_the_range(void **state) {
    (void)state;
    assert_true(exp_of(0.0) == 1.0);
    assert_true(exp_of(-0.0) == 1.0);
    assert_true(exp_of(-0x1p-1074) == 1.0);
    assert_true(exp_of(-708.0) > 3.3e-308 && exp_of(-708.0) < 3.4e-308);
    assert_true(exp_of(-0x1.6200000000001p+9) == 0.0); /* the double below -708 */
    assert_true(exp_of(-1e300) == 0.0);
    assert_true(exp_of(-(double)INFINITY) == 0.0);
}

/* Results of one processor, to the bit, for all others to equal. */
static void test_elementary_vector_exp_has_fixed_bits(void **state) {
    (void)state;
    const double known[][2] = {
        {-0x1.999999999999ap-4, 0x1.cf46d99d52b3ap-1},
        {-0x1.0000000000000p-1, 0x1.368b2fc6f960ap-1},
        {-0x1.0000000000000p+0, 0x1.78b56362cef38p-2},
        {-0x1.a000000000000p+1, 0x1.3da368521902dp-5},
        {-0x1.1b33333333333p+4, 0x1.61307528e2fc6p-26},
        {-0x1.9000000000000p+6, 0x1.a8c1f14e2af5cp-145},
        {-0x1.59ad916872b02p+8, 0x1.3971a67444e9dp-499},
        {-0x1.61f3333333333p+9, 0x1.a4904f4342894p-1022},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        assert_true(exp_of(known[i][0]) == known[i][1]);
    }
}

static void test_elementary_vector_exp_does_not_depend_on_place(void **state) {
    (void)state;
    enum { COUNT = 37 };
    double expected[COUNT];
    for (int i = 0; i < COUNT; i++) {
        expected[i] = exp_of(-0.37 * i * i);
    }
    for (size_t count = 0; count <= COUNT; count++) {
        double values[COUNT + 1];
        for (int i = 0; i < COUNT; i++) {
            values[i] = -0.37 * i * i;
        }
        values[count] = 77.0; /* behind the end: stays */
        elementary_vector_exp(values, count);
        assert_memory_equal(values, expected, count * sizeof *values);
        assert_true(values[count] == 77.0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elementary_vector_exp_is_close),
        cmocka_unit_test(test_elementary_vector_exp_ends_of_the_range),
        cmocka_unit_test(test_elementary_vector_exp_has_fixed_bits),
        cmocka_unit_test(test_elementary_vector_exp_does_not_depend_on_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
