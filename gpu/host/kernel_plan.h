/*
 * What the kernel files of one ISA share. The build compiles every kernel_*.c
 * once per ISA and names here: KERNEL_ISA, the suffix of its symbols,
 * KERNEL_SIMD_HEADER, and KERNEL_DOT_HEADER, the integer products.
 *
 * A plan function splits one checked command into phases (kernel.h); the sums
 * of a unit never depend on which units run beside it.
 */
#ifndef TERN_GPU_HOST_KERNEL_PLAN_H
#define TERN_GPU_HOST_KERNEL_PLAN_H

#include "gpu/backend.h"
#include "gpu/host/host_memory.h"
#include "gpu/host/kernel.h"

#include <string.h>

#include KERNEL_SIMD_HEADER

#define KERNEL_INLINE static inline __attribute__((always_inline))
#define KERNEL_JOIN_EXPANDED(name, isa) name##_##isa
#define KERNEL_JOIN(name, isa) KERNEL_JOIN_EXPANDED(name, isa)
/* NAME with the ISA as its suffix: kernel_plan_rope_avx2. */
#define KERNEL_SYMBOL(name) KERNEL_JOIN(name, KERNEL_ISA)

typedef void kernel_plan_fn(const struct command *command, int threads, struct kernel_plan *out);

/* Plans any command; kernel.c puts it into the ISA's kernel_set. */
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_command);

kernel_plan_fn KERNEL_SYMBOL(kernel_plan_embed);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_gather_rows);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_rms_norm);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_gated_norm);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_matmul);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_swiglu);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_rope_table);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_rope);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_kv_write);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_attention);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_conv1d);
kernel_plan_fn KERNEL_SYMBOL(kernel_plan_ssm_scan);

/* One phase of UNITS units. UNIT_COST is about how many cycles one takes: shares are made large
 * enough to pay for handing them out, and small enough to spread over THREADS. */
static inline struct kernel_phase kernel_plan_phase(void (*run)(const struct kernel_call *, size_t,
                                                                size_t, int),
                                                    size_t units, size_t unit_cost, int threads) {
    enum { SHARE_COST_MIN = 4000, SHARES_PER_THREAD = 4 };
    size_t least = SHARE_COST_MIN / (unit_cost + 1) + 1;
    size_t even = units / ((size_t)threads * SHARES_PER_THREAD);
    return (struct kernel_phase){run, units, even > least ? even : least};
}

/* Rows of the step before those of sequence INDEX. */
static inline int kernel_plan_first_row(const struct batch_layout *layout, int index) {
    int rows = 0;
    for (int i = 0; i < index; i++) {
        rows += layout->sequences[i].rows;
    }
    return rows;
}

/* Lanes in use of a vector that starts at value INDEX of COUNT. */
static inline int kernel_plan_lanes(int index, int count) {
    return count - index < SIMD_LANES ? count - index : SIMD_LANES;
}

static inline float *kernel_plan_row(struct device_ptr ptr, size_t stride, size_t row) {
    return (float *)host_memory_at(ptr) + row * stride;
}

#endif
