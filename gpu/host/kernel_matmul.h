/*
 * What the files of the matrix products share: a task is a rectangle of one
 * product's output, some panels of 16 columns by some rows.
 */
#ifndef TERN_GPU_HOST_KERNEL_MATMUL_H
#define TERN_GPU_HOST_KERNEL_MATMUL_H

#include "gpu/host/host_weight.h"
#include "gpu/host/kernel_plan.h"

struct kernel_matmul_task {
    const struct op_product *product;
    const struct host_weight *weight;
    const float *in; /* row 0 of the step */
    size_t in_stride;
    const void *quantised; /* rows of blocks, for Q8_0 */
    size_t panel_begin;
    size_t panel_end;
    size_t row_begin;
    size_t row_end;
};

void KERNEL_SYMBOL(kernel_matmul_plain)(const struct kernel_matmul_task *task);
void KERNEL_SYMBOL(kernel_matmul_q8)(const struct kernel_matmul_task *task);

/* Bytes of COLUMNS quantised activations. */
size_t KERNEL_SYMBOL(kernel_matmul_q8_row_bytes)(int columns);
void KERNEL_SYMBOL(kernel_matmul_q8_quantise)(const float *x, int columns, void *to);

/* Rows up to which a panel is read once for all of them. */
int KERNEL_SYMBOL(kernel_matmul_q8_few_rows)(void);

/* Bias and epilogue of 16 outputs of a row; PANEL's rows may end early. */
KERNEL_INLINE void kernel_matmul_finish(const struct kernel_matmul_task *task, size_t panel,
                                        size_t row, struct simd y) {
    const struct op_product *product = task->product;
    int column = (int)panel * HOST_WEIGHT_PANEL_ROWS;
    int lanes = kernel_plan_lanes(column, task->weight->base.rows);
    const float *bias = host_memory_at(product->bias);
    float *out = kernel_plan_row(product->out, product->out_stride, row) + column;
    struct simd factor = simd_set1(product->factor);
    if (bias != NULL) {
        y = simd_add(y, simd_load_part(bias + column, lanes));
    }
    if (product->epilogue == OP_EPILOGUE_ADD) {
        y = simd_fma(y, factor, simd_load_part(out, lanes));
    } else if (product->epilogue == OP_EPILOGUE_DIVIDE) {
        y = simd_div(y, factor);
    }
    simd_store_part(out, y, lanes);
}

#endif
