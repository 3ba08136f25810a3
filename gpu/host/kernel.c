/*
 * The kernel sets of the build. Compiled for any processor, as it asks which
 * sets this one can run.
 */
#include "gpu/host/kernel.h"

#include <cpuid.h>

typedef void plan_fn(const struct command *command, int threads, struct kernel_plan *out);

plan_fn kernel_plan_command_avx512vnni;
plan_fn kernel_plan_command_avx512;
plan_fn kernel_plan_command_avx2;
plan_fn kernel_plan_command_portable;

extern const struct kernel_peaks kernel_peaks_avx512vnni;
extern const struct kernel_peaks kernel_peaks_avx512;
extern const struct kernel_peaks kernel_peaks_avx2;
extern const struct kernel_peaks kernel_peaks_portable;

static int has_f16c(void) {
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & (unsigned)bit_F16C) != 0;
}

/* __builtin_cpu_supports asks XGETBV too: no set is reported that the system doesn't save. */
static int supports_portable(void) {
    return 1;
}

static int supports_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static int supports_avx512(void) {
    return supports_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq");
}

static int supports_avx512vnni(void) {
    return supports_avx512() && __builtin_cpu_supports("avx512vnni");
}

static const struct kernel_set set_avx512vnni = {
    "avx512vnni", supports_avx512vnni, kernel_plan_command_avx512vnni, &kernel_peaks_avx512vnni};
static const struct kernel_set set_avx512 = {"avx512", supports_avx512, kernel_plan_command_avx512,
                                             &kernel_peaks_avx512};
static const struct kernel_set set_avx2 = {"avx2", supports_avx2, kernel_plan_command_avx2,
                                           &kernel_peaks_avx2};
static const struct kernel_set set_portable = {
    "portable", supports_portable, kernel_plan_command_portable, &kernel_peaks_portable};

const struct kernel_set *const kernel_sets[] = {&set_avx512vnni, &set_avx512, &set_avx2,
                                                &set_portable, NULL};
