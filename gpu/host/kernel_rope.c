/*
 * Rotary positions. A unit is a row.
 */
#include "base/elementary.h"
#include "gpu/host/kernel_transcendental.h"

static void rope_table_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_rope_table *op = &call->command->rope_table;
    const struct batch_layout *layout = &op->batch->layout;
    const double *frequencies = host_memory_at(op->frequencies);
    size_t row_stride = (size_t)op->pairs * 2;
    size_t first = 0;
    for (int s = 0; s < layout->sequence_count && first < end; s++) {
        const struct batch_sequence *sequence = &layout->sequences[s];
        for (int i = 0; i < sequence->rows; i++, first++) {
            if (first < begin || first >= end) {
                continue;
            }
            double position = (double)(sequence->position + i);
            float *to = kernel_plan_row(op->table, row_stride, first);
            for (int pair = 0; pair < op->pairs; pair++) {
                double sine;
                double cosine;
                elementary_sincos(position * frequencies[pair], &sine, &cosine);
                to[2 * pair] = (float)cosine;
                to[2 * pair + 1] = (float)sine;
            }
        }
    }
}

void KERNEL_SYMBOL(kernel_plan_rope_table)(const struct command *command, int threads,
                                           struct kernel_plan *out) {
    const struct op_rope_table *op = &command->rope_table;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(rope_table_run, (size_t)op->batch->rows,
                                       (size_t)op->pairs * 150, threads);
}

KERNEL_INLINE void rotate(struct simd *a, struct simd *b, struct simd cosine, struct simd sine) {
    struct simd turned_a = simd_fma(*a, cosine, simd_neg(simd_mul(*b, sine)));
    *b = simd_fma(*a, sine, simd_mul(*b, cosine));
    *a = turned_a;
}

/* 16 pairs at a time go through arrays that hold their parts apart. */
static void rope_row(const struct op_rope *op, const float *table, float *x) {
    int step = op->style == OP_ROPE_NEIGHBOURS ? 2 : 1;
    int partner = op->style == OP_ROPE_NEIGHBOURS ? 1 : op->pairs;
    for (int pair = 0; pair < op->pairs; pair += SIMD_LANES) {
        int lanes = kernel_plan_lanes(pair, op->pairs);
        float cosine[SIMD_LANES] = {0};
        float sine[SIMD_LANES] = {0};
        for (int i = 0; i < lanes; i++) {
            cosine[i] = table[2 * (pair + i)];
            sine[i] = table[2 * (pair + i) + 1];
        }
        struct simd turn_cosine = simd_load(cosine);
        struct simd turn_sine = simd_load(sine);
        for (int h = 0; h < op->heads; h++) {
            float *at = x + (size_t)h * (size_t)op->head_size + pair * step;
            if (op->style == OP_ROPE_HALVES) {
                struct simd a = simd_load_part(at, lanes);
                struct simd b = simd_load_part(at + partner, lanes);
                rotate(&a, &b, turn_cosine, turn_sine);
                simd_store_part(at, a, lanes);
                simd_store_part(at + partner, b, lanes);
                continue;
            }
            float first[SIMD_LANES] = {0};
            float second[SIMD_LANES] = {0};
            for (int i = 0; i < lanes; i++) {
                first[i] = at[2 * i];
                second[i] = at[2 * i + 1];
            }
            struct simd a = simd_load(first);
            struct simd b = simd_load(second);
            rotate(&a, &b, turn_cosine, turn_sine);
            simd_store(first, a);
            simd_store(second, b);
            for (int i = 0; i < lanes; i++) {
                at[2 * i] = first[i];
                at[2 * i + 1] = second[i];
            }
        }
    }
}

static void rope_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_rope *op = &call->command->rope;
    for (size_t r = begin; r < end; r++) {
        rope_row(op, kernel_plan_row(op->table, (size_t)op->pairs * 2, r),
                 kernel_plan_row(op->x, op->x_stride, r));
    }
}

void KERNEL_SYMBOL(kernel_plan_rope)(const struct command *command, int threads,
                                     struct kernel_plan *out) {
    const struct op_rope *op = &command->rope;
    size_t cost = (size_t)op->heads * (size_t)op->pairs;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(rope_run, (size_t)op->rows, cost, threads);
}
