#include "base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static int is_half_nan(uint16_t half) {
    return (half & 0x7fffu) > 0x7c00u;
}

/* The value of a finite half from its three fields, exact in double. */
static double half_value(uint16_t half) {
    int exponent = (half >> 10) & 0x1f;
    double fraction = half & 0x3ff;
    double magnitude =
        exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024.0, exponent - 25);
    return (half & 0x8000u) != 0 ? -magnitude : magnitude;
}

static void test_half_widens_every_f16(void **state) {
    (void)state;
    for (unsigned i = 0; i < 0x10000u; i++) {
        uint16_t half = (uint16_t)i;
        float wide = half_f16_to_f32(half);
        if (is_half_nan(half)) {
            uint32_t want =
                (uint32_t)(half & 0x8000u) << 16 | 0x7fc00000u | (uint32_t)(half & 0x3ffu) << 13;
            assert_int_equal(half_bits_of_f32(wide), want);
        } else if ((half & 0x7fffu) == 0x7c00u) {
            assert_true(isinf(wide) && (signbit(wide) != 0) == ((half & 0x8000u) != 0));
        } else {
            assert_true((double)wide == half_value(half));
            assert_int_equal(half_bits_of_f32(wide) >> 31, half >> 15);
        }
    }
}

static void test_half_narrows_every_f16_back(void **state) {
    (void)state;
    for (unsigned i = 0; i < 0x10000u; i++) {
        uint16_t half = (uint16_t)i;
        uint16_t want = is_half_nan(half) ? (uint16_t)(half | 0x200u) : half;
        assert_int_equal(half_f32_to_f16(half_f16_to_f32(half)), want);
    }
}

static void test_half_takes_every_bf16_both_ways(void **state) {
    (void)state;
    for (unsigned i = 0; i < 0x10000u; i++) {
        uint16_t half = (uint16_t)i;
        float wide = half_bf16_to_f32(half);
        assert_int_equal(half_bits_of_f32(wide), i << 16);
        int is_nan = (half & 0x7fffu) > 0x7f80u;
        assert_int_equal(half_f32_to_bf16(wide), is_nan ? (uint16_t)(half | 0x40u) : half);
    }
}

/* Every boundary between two neighbouring halves: below it, on it (ties to even), above it. */
static void test_half_rounds_to_nearest_even(void **state) {
    (void)state;
    for (unsigned i = 0; i < 0x7bffu; i++) {
        double low = half_value((uint16_t)i);
        double high = half_value((uint16_t)(i + 1));
        float middle = (float)((low + high) / 2); /* 12 bits: exact */
        uint16_t even = (uint16_t)(i % 2 == 0 ? i : i + 1);
        assert_int_equal(half_f32_to_f16(middle), even);
        assert_int_equal(half_f32_to_f16(-middle), even | 0x8000u);
        assert_int_equal(half_f32_to_f16(nextafterf(middle, 0.0f)), i);
        assert_int_equal(half_f32_to_f16(nextafterf(middle, INFINITY)), i + 1);
    }
    assert_int_equal(half_f32_to_f16(65504.0f), 0x7bffu);
    assert_int_equal(half_f32_to_f16(nextafterf(65520.0f, 0.0f)), 0x7bffu);
    assert_int_equal(half_f32_to_f16(65520.0f), 0x7c00u);
    assert_int_equal(half_f32_to_f16(-1e30f), 0xfc00u);
    assert_int_equal(half_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(half_f32_to_f16(0x1.000002p-25f), 1);
    assert_int_equal(half_f32_to_f16(-0x1p-149f), 0x8000u);
    assert_int_equal(half_f32_to_f16(-0.0f), 0x8000u);
}

/* The same for BF16, whose neighbours are 2^16 apart in F32's bits, denormals included. */
static void test_half_rounds_bf16_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 0x7f80u; i++) {
        uint32_t middle = i << 16 | 0x8000u;
        uint32_t even = i % 2 == 0 ? i : i + 1;
        assert_int_equal(half_f32_to_bf16(half_f32_of_bits(middle)), even);
        assert_int_equal(half_f32_to_bf16(half_f32_of_bits(middle | 0x80000000u)), even | 0x8000u);
        assert_int_equal(half_f32_to_bf16(half_f32_of_bits(middle - 1)), i);
        assert_int_equal(half_f32_to_bf16(half_f32_of_bits(middle + 1)), i + 1);
    }
    assert_int_equal(half_f32_to_bf16(INFINITY), 0x7f80u);
    assert_int_equal(half_f32_to_bf16(-INFINITY), 0xff80u);
    assert_int_equal(half_f32_to_bf16(half_f32_of_bits(0x7fffffffu)), 0x7fffu);
    assert_int_equal(half_f32_to_bf16(half_f32_of_bits(0x7f800001u)), 0x7fc0u);
    assert_int_equal(half_f32_to_bf16(half_f32_of_bits(0xff800001u)), 0xffc0u);
}

#if defined(__x86_64__)

__attribute__((target("f16c"))) static uint16_t processor_narrows(float value) {
    return (uint16_t)_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

__attribute__((target("f16c"))) static float processor_widens(uint16_t half) {
    return _cvtsh_ss(half);
}

/* "avx" also says that the system keeps the wide registers. */
static int processor_has_f16c(void) {
    unsigned eax;
    unsigned ebx;
    unsigned ecx = 0;
    unsigned edx;
    return __builtin_cpu_supports("avx") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C) != 0;
}

static void test_half_agrees_with_the_processor(void **state) {
    (void)state;
    if (!processor_has_f16c()) {
        skip();
    }
    for (unsigned i = 0; i < 0x10000u; i++) {
        assert_int_equal(half_bits_of_f32(half_f16_to_f32((uint16_t)i)),
                         half_bits_of_f32(processor_widens((uint16_t)i)));
    }
    /* Every sign and exponent; of fractions all upper 11 bits with the lower 12 at and around
     * zero, half way and all ones, so that every tie of every shift is met, and a coarse sweep. */
    static const uint32_t lows[] = {0, 1, 0x7ff, 0x800, 0x801, 0xfff};
    for (uint32_t top = 0; top < 0x200u; top++) {
        for (uint32_t fraction = 0; fraction < 0x800u; fraction++) {
            for (size_t i = 0; i < sizeof lows / sizeof lows[0]; i++) {
                float value = half_f32_of_bits(top << 23 | fraction << 12 | lows[i]);
                if (half_f32_to_f16(value) != processor_narrows(value)) {
                    fail_msg("%a (0x%08x)", (double)value, (unsigned)half_bits_of_f32(value));
                }
            }
        }
    }
    for (uint64_t bits = 0; bits < 0x100000000u; bits += 1021) {
        float value = half_f32_of_bits((uint32_t)bits);
        if (half_f32_to_f16(value) != processor_narrows(value)) {
            fail_msg("%a (0x%08x)", (double)value, (unsigned)bits);
        }
    }
}

#else

static void test_half_agrees_with_the_processor(void **state) {
    (void)state;
    skip(); /* F16C is x86's */
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_half_widens_every_f16),
        cmocka_unit_test(test_half_narrows_every_f16_back),
        cmocka_unit_test(test_half_takes_every_bf16_both_ways),
        cmocka_unit_test(test_half_rounds_to_nearest_even),
        cmocka_unit_test(test_half_rounds_bf16_to_nearest_even),
        cmocka_unit_test(test_half_agrees_with_the_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
