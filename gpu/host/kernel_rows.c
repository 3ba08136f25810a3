/*
 * Ops on single rows: embedding, gathering, norms, SwiGLU. A unit is a row, or a
 * run of a row's columns where columns don't meet in a sum.
 */
#include "base/half.h"
#include "gpu/host/host_weight.h"
#include "gpu/host/kernel_transcendental.h"

#include <math.h>

/* --- embedding ----------------------------------------------------------------------- */

static void embed_q8_row(const struct host_weight *weight, int row, float scale, float *out) {
    enum { BLOCK = HOST_WEIGHT_BLOCK_VALUES, SCALES_BYTES = 64, QUANTS_BYTES = 512 };
    int lane = row % HOST_WEIGHT_PANEL_ROWS;
    const uint8_t *panel =
        weight->panels + (size_t)(row / HOST_WEIGHT_PANEL_ROWS) * weight->panel_bytes;
    int blocks = weight->base.columns / BLOCK;
    for (int b = 0; b < blocks; b++) {
        const uint8_t *pair = panel + (size_t)(b / 2) * (SCALES_BYTES + 2 * QUANTS_BYTES);
        uint16_t half;
        memcpy(&half, pair + (b % 2) * SCALES_BYTES / 2 + lane * 2, sizeof half);
        float d = half_f16_to_f32(half);
        const uint8_t *quants = pair + SCALES_BYTES + (b % 2) * QUANTS_BYTES + lane * 4;
        for (int k = 0; k < BLOCK; k++) {
            int q = quants[k / 4 * 64 + k % 4] - 128;
            out[b * BLOCK + k] = d * (float)q * scale;
        }
    }
}

static void embed_plain_row(const struct host_weight *weight, int row, float scale, float *out) {
    int lane = row % HOST_WEIGHT_PANEL_ROWS;
    const uint8_t *panel =
        weight->panels + (size_t)(row / HOST_WEIGHT_PANEL_ROWS) * weight->panel_bytes;
    int columns = weight->base.columns;
    if (weight->base.type == DTYPE_F32) {
        const float *values = (const float *)(const void *)panel + lane;
        for (int c = 0; c < columns; c++) {
            out[c] = values[(size_t)c * HOST_WEIGHT_PANEL_ROWS] * scale;
        }
        return;
    }
    const uint16_t *values = (const uint16_t *)(const void *)panel + lane;
    for (int c = 0; c < columns; c++) {
        uint16_t half = values[(size_t)c * HOST_WEIGHT_PANEL_ROWS];
        float value =
            weight->base.type == DTYPE_F16 ? half_f16_to_f32(half) : half_bf16_to_f32(half);
        out[c] = value * scale;
    }
}

static void embed_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_embed *op = &call->command->embed;
    const struct host_weight *weight = (const struct host_weight *)(const void *)op->weight;
    const int32_t *tokens = op->batch->layout.tokens;
    for (size_t r = begin; r < end; r++) {
        float *out = kernel_plan_row(op->out, (size_t)weight->base.columns, r);
        if (weight->base.type == DTYPE_Q8_0) {
            embed_q8_row(weight, tokens[r], op->scale, out);
        } else {
            embed_plain_row(weight, tokens[r], op->scale, out);
        }
    }
}

void KERNEL_SYMBOL(kernel_plan_embed)(const struct command *command, int threads,
                                      struct kernel_plan *out) {
    const struct op_embed *op = &command->embed;
    size_t cost = 2 * (size_t)op->weight->columns;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(embed_run, (size_t)op->batch->rows, cost, threads);
}

/* --- gathering ----------------------------------------------------------------------- */

static void gather_rows_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_gather_rows *op = &call->command->gather_rows;
    size_t columns = (size_t)op->columns;
    const int32_t *output_rows = op->batch->layout.output_rows;
    for (size_t i = begin; i < end; i++) {
        memcpy(kernel_plan_row(op->out, columns, i),
               kernel_plan_row(op->in, columns, (size_t)output_rows[i]), columns * sizeof(float));
    }
}

void KERNEL_SYMBOL(kernel_plan_gather_rows)(const struct command *command, int threads,
                                            struct kernel_plan *out) {
    const struct op_gather_rows *op = &command->gather_rows;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(gather_rows_run, (size_t)op->batch->layout.output_count,
                                       (size_t)op->columns / 8, threads);
}

/* --- norms --------------------------------------------------------------------------- */

/* A tail's unused lanes add a product of zeros to a sum that is never -0: no bit changes. */
KERNEL_INLINE float sum_of_squares(const float *x, int columns) {
    struct simd sums = simd_zero();
    int c = 0;
    for (; c + SIMD_LANES <= columns; c += SIMD_LANES) {
        struct simd v = simd_load(x + c);
        sums = simd_fma(v, v, sums);
    }
    if (c < columns) {
        struct simd v = simd_load_part(x + c, columns - c);
        sums = simd_fma(v, v, sums);
    }
    return simd_tree16(sums);
}

/* out = (x * r) * weight; out may be x. */
KERNEL_INLINE void normalise(const float *x, const float *weight, float eps, int columns,
                             float *out) {
    float sum = sum_of_squares(x, columns);
    struct simd r = simd_set1(1.0f / sqrtf(sum / (float)columns + eps));
    int c = 0;
    for (; c + SIMD_LANES <= columns; c += SIMD_LANES) {
        struct simd v = simd_mul(simd_load(x + c), r);
        simd_store(out + c, simd_mul(v, simd_load(weight + c)));
    }
    if (c < columns) {
        int lanes = columns - c;
        struct simd v = simd_mul(simd_load_part(x + c, lanes), r);
        simd_store_part(out + c, simd_mul(v, simd_load_part(weight + c, lanes)), lanes);
    }
}

static void rms_norm_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_rms_norm *op = &call->command->rms_norm;
    const float *weight = host_memory_at(op->weight);
    for (size_t r = begin; r < end; r++) {
        normalise(kernel_plan_row(op->in, op->in_stride, r), weight, op->eps, op->columns,
                  kernel_plan_row(op->out, op->out_stride, r));
    }
}

void KERNEL_SYMBOL(kernel_plan_rms_norm)(const struct command *command, int threads,
                                         struct kernel_plan *out) {
    const struct op_rms_norm *op = &command->rms_norm;
    out->phase_count = 1;
    out->phases[0] =
        kernel_plan_phase(rms_norm_run, (size_t)op->rows, 100 + (size_t)op->columns / 3, threads);
}

/* out = x * silu(gate); out may be x or gate. */
KERNEL_INLINE void gate_values(const float *x, const float *gate, int columns, float *out) {
    int c = 0;
    for (; c + SIMD_LANES <= columns; c += SIMD_LANES) {
        struct simd g = kernel_transcendental_silu(simd_load(gate + c));
        simd_store(out + c, simd_mul(simd_load(x + c), g));
    }
    if (c < columns) {
        int lanes = columns - c;
        struct simd g = kernel_transcendental_silu(simd_load_part(gate + c, lanes));
        simd_store_part(out + c, simd_mul(simd_load_part(x + c, lanes), g), lanes);
    }
}

/* A unit is a group of a row. */
static void gated_norm_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_gated_norm *op = &call->command->gated_norm;
    size_t groups = (size_t)op->groups;
    int columns = op->columns / op->groups;
    const float *weight = host_memory_at(op->weight);
    for (size_t unit = begin; unit < end; unit++) {
        size_t r = unit / groups;
        size_t start = unit % groups * (size_t)columns;
        float *out = kernel_plan_row(op->out, op->out_stride, r) + start;
        gate_values(kernel_plan_row(op->in, op->in_stride, r) + start,
                    kernel_plan_row(op->gate, op->gate_stride, r) + start, columns, out);
        if (weight != NULL) {
            normalise(out, weight + start, op->eps, columns, out);
        }
    }
}

void KERNEL_SYMBOL(kernel_plan_gated_norm)(const struct command *command, int threads,
                                           struct kernel_plan *out) {
    const struct op_gated_norm *op = &command->gated_norm;
    size_t cost = 100 + 2 * (size_t)(op->columns / op->groups);
    size_t units = (size_t)op->rows * (size_t)op->groups;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(gated_norm_run, units, cost, threads);
}

/* --- SwiGLU -------------------------------------------------------------------------- */

enum { SWIGLU_RUN = 512 }; /* columns of a unit */

static void swiglu_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_swiglu *op = &call->command->swiglu;
    size_t runs = ((size_t)op->columns + SWIGLU_RUN - 1) / SWIGLU_RUN;
    for (size_t unit = begin; unit < end; unit++) {
        size_t r = unit / runs;
        size_t start = unit % runs * SWIGLU_RUN;
        int rest = op->columns - (int)start;
        gate_values(kernel_plan_row(op->up, op->up_stride, r) + start,
                    kernel_plan_row(op->gate, op->gate_stride, r) + start,
                    rest < SWIGLU_RUN ? rest : SWIGLU_RUN,
                    kernel_plan_row(op->out, op->out_stride, r) + start);
    }
}

void KERNEL_SYMBOL(kernel_plan_swiglu)(const struct command *command, int threads,
                                       struct kernel_plan *out) {
    const struct op_swiglu *op = &command->swiglu;
    size_t runs = ((size_t)op->columns + SWIGLU_RUN - 1) / SWIGLU_RUN;
    out->phase_count = 1;
    out->phases[0] =
        kernel_plan_phase(swiglu_run, (size_t)op->rows * runs, 2 * SWIGLU_RUN, threads);
}
