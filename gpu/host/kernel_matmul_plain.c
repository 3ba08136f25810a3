/*
 * Products with F32, F16 and BF16 weights: lanes over 16 outputs, k in order,
 * tiles of rows by panels that fit the registers. Widening is exact, so the
 * types differ in their loads alone.
 */
#include "gpu/host/kernel_matmul.h"

enum {
    TILE_TOKENS = SIMD_REGISTERS >= 32 ? 4 : 1,
    TILE_PANELS = SIMD_REGISTERS >= 32 ? 4 : 2,
};

KERNEL_INLINE struct simd load_weights(enum dtype type, const uint8_t *panel, size_t k) {
    const uint8_t *at = panel + k * HOST_WEIGHT_PANEL_ROWS * (type == DTYPE_F32 ? 4 : 2);
    switch (type) {
    case DTYPE_F16:
        return simd_load_f16((const uint16_t *)(const void *)at);
    case DTYPE_BF16:
        return simd_load_bf16((const uint16_t *)(const void *)at);
    default:
        return simd_load((const float *)(const void *)at);
    }
}

KERNEL_INLINE void plain_tile(const struct kernel_matmul_task *task, enum dtype type, size_t panel,
                              size_t row, int tokens, int panels) {
    struct simd acc[TILE_TOKENS][TILE_PANELS];
    const uint8_t *weights = task->weight->panels + panel * task->weight->panel_bytes;
    const float *x = task->in + row * task->in_stride;
    size_t columns = (size_t)task->weight->base.columns;
    for (int t = 0; t < tokens; t++) {
        for (int p = 0; p < panels; p++) {
            acc[t][p] = simd_zero();
        }
    }
    for (size_t k = 0; k < columns; k++) {
        struct simd w[TILE_PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < panels; p++) {
            const uint8_t *from = weights + (size_t)p * task->weight->panel_bytes;
            w[p] = load_weights(type, from, k);
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            struct simd value = simd_set1(x[(size_t)t * task->in_stride + k]);
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                acc[t][p] = simd_fma(w[p], value, acc[t][p]);
            }
        }
    }
    for (int t = 0; t < tokens; t++) {
        for (int p = 0; p < panels; p++) {
            kernel_matmul_finish(task, panel + (size_t)p, row + (size_t)t, acc[t][p]);
        }
    }
}

/* Full tiles, then single rows; full groups of panels, then single panels. */
KERNEL_INLINE void plain_rows(const struct kernel_matmul_task *task, enum dtype type, size_t panel,
                              int panels) {
    size_t row = task->row_begin;
    for (; row + TILE_TOKENS <= task->row_end; row += TILE_TOKENS) {
        plain_tile(task, type, panel, row, TILE_TOKENS, panels);
    }
    for (; row < task->row_end; row++) {
        plain_tile(task, type, panel, row, 1, panels);
    }
}

KERNEL_INLINE void plain_task(const struct kernel_matmul_task *task, enum dtype type) {
    size_t panel = task->panel_begin;
    for (; panel + TILE_PANELS <= task->panel_end; panel += TILE_PANELS) {
        plain_rows(task, type, panel, TILE_PANELS);
    }
    for (; panel < task->panel_end; panel++) {
        plain_rows(task, type, panel, 1);
    }
}

void KERNEL_SYMBOL(kernel_matmul_plain)(const struct kernel_matmul_task *task) {
    switch (task->weight->base.type) {
    case DTYPE_F16:
        plain_task(task, DTYPE_F16);
        break;
    case DTYPE_BF16:
        plain_task(task, DTYPE_BF16);
        break;
    default:
        plain_task(task, DTYPE_F32);
        break;
    }
}
