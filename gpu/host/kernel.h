/*
 * The contract between the host backend's streams and its kernels. A kernel set
 * is one ISA's kernels. A command runs as one or two phases; a phase is a number
 * of independent units of work that the workers share in any split, and the
 * second starts when the first has ended. How units are split never changes a
 * bit of any result.
 *
 * Kernels are written once against simd.h and built once per ISA; the integer
 * products are written per ISA.
 */
#ifndef TERN_GPU_KERNEL_H
#define TERN_GPU_KERNEL_H

#include "gpu/command.h"

enum { KERNEL_PHASES_MAX = 2 };

/* What a phase gets besides its command. */
struct kernel_call {
    const struct command *command;
    void *scratch; /* scratch_bytes of the plan, 64-byte aligned, shared by all units and phases */
    enum err
        *result; /* ERR_OK before; only a plan of one unit may set it, which fails the device */
};

struct kernel_phase {
    void (*run)(const struct kernel_call *call, size_t begin, size_t end, int worker);
    size_t units; /* 0: the phase is skipped */
    size_t grain; /* units a worker takes at once; at least 1 */
};

struct kernel_plan {
    struct kernel_phase phases[KERNEL_PHASES_MAX];
    int phase_count;
    size_t scratch_bytes; /* 0: none */
};

/* The tightest loops of a set, for measuring what the processor can do; each runs on one worker and
 * gives a value that depends on all it did, so that no compiler leaves it out. */
struct kernel_peaks {
    double dot_step_ops;   /* operations in a step of `dot` */
    double float_step_ops; /* ... of `fma` */
    float (*dot)(size_t steps);
    float (*fma)(size_t steps);
    float (*read)(const float *from, size_t values); /* a multiple of 1024 values */
};

struct kernel_set {
    const char *name;          /* "portable", "avx2", "avx512", "avx512vnni", "reference" */
    int (*is_supported)(void); /* by this processor and operating system */
    /* Plans COMMAND, which has passed command_check, for THREADS workers. */
    void (*plan)(const struct command *command, int threads, struct kernel_plan *out);
    const struct kernel_peaks *peaks; /* NULL for "reference" */
};

/* Best first; ends with NULL. "reference" is not in it. */
extern const struct kernel_set *const kernel_sets[];
extern const struct kernel_set kernel_set_reference;

/* The revision of all sum orders and formulas together: the numerics class of the host backend. */
#define KERNEL_NUMERICS_CLASS "host-1"

#endif
