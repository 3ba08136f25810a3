/*
 * Products with Q8_0 weights. Integer sums inside a block of 32 are exact in any
 * order; over blocks one accumulator per output, in order.
 *
 * Few rows read panels one after another, as they lie in memory. The processor's
 * own prefetching keeps up with that: prefetch instructions at any distance made
 * a row of 768 x 3,376 take 115 to 140 us instead of 102, and 8 rows 175 to 195
 * instead of 173.
 */
#include "gpu/host/kernel_matmul.h"

#include KERNEL_DOT_HEADER

#include <math.h>

enum {
    BLOCK = HOST_WEIGHT_BLOCK_VALUES,
    RUNS = BLOCK / 4,
    LINE_BYTES = 64,
    SCALES_BYTES = HOST_WEIGHT_PANEL_ROWS * 2,
    QUANTS_BYTES = HOST_WEIGHT_PANEL_ROWS * BLOCK,
    PAIR_BYTES = 2 * (SCALES_BYTES + QUANTS_BYTES),
    TOKENS_MAX = 8,
    PANELS_MAX = 3,
};

_Static_assert((int)DOT_TILE_PANELS <= (int)PANELS_MAX && (int)DOT_TILE_TOKENS <= (int)TOKENS_MAX &&
                   (int)DOT_FEW_TOKENS <= (int)TOKENS_MAX,
               "a tile has sums for its rows and panels");

/* --- activations --------------------------------------------------------------------- */

size_t KERNEL_SYMBOL(kernel_matmul_q8_row_bytes)(int columns) {
    return (size_t)columns / BLOCK * sizeof(struct dot_block);
}

void KERNEL_SYMBOL(kernel_matmul_q8_quantise)(const float *x, int columns, void *to) {
    struct dot_block *blocks = to;
    for (int b = 0; b < columns / BLOCK; b++) {
        struct dot_block *block = &blocks[b];
        uint32_t bits = simd_largest_magnitude_bits(x + (size_t)b * BLOCK);
        float m;
        memcpy(&m, &bits, sizeof m);
        if (!(m < INFINITY)) {
            *block = (struct dot_block){.scale = NAN};
        } else if (m < TRANSCENDENTAL_QUANTISE_MIN) {
            *block = (struct dot_block){.scale = 0.0f};
        } else {
            block->scale = m / 127.0f;
            dot_quantise(x + (size_t)b * BLOCK, 127.0f / m, block);
        }
    }
}

/* --- tiles --------------------------------------------------------------------------- */

/* Block HALF of a pair for TOKENS tokens and PANELS panels. */
KERNEL_INLINE void add_block(const uint8_t *const pairs[PANELS_MAX], int half,
                             const struct dot_block *const x[TOKENS_MAX], int tokens, int panels,
                             struct simd acc[TOKENS_MAX][PANELS_MAX]) {
    struct dot_sum sum[TOKENS_MAX][PANELS_MAX];
    const int scales = half * SCALES_BYTES;
    const int quants = 2 * SCALES_BYTES + half * QUANTS_BYTES;
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            sum[t][p] = dot_start(x[t][half].start);
        }
    }
#pragma GCC unroll 8
    for (int run = 0; run < RUNS; run++) {
        struct dot_weights w[PANELS_MAX];
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            w[p] = dot_load_weights(pairs[p] + quants + run * LINE_BYTES);
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            struct dot_activations four = dot_load_activations(&x[t][half], run);
#pragma GCC unroll 3
            for (int p = 0; p < panels; p++) {
                sum[t][p] = dot_step(sum[t][p], w[p], four);
            }
        }
    }
#pragma GCC unroll 3
    for (int p = 0; p < panels; p++) {
        struct simd d = simd_load_f16((const uint16_t *)(const void *)(pairs[p] + scales));
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            struct simd scale = simd_mul(d, simd_set1(x[t][half].scale));
            acc[t][p] = simd_fma(dot_to_simd(sum[t][p]), scale, acc[t][p]);
        }
    }
}

/* For bias, epilogue and panels that end early; kept out of the tiles, which are many. */
static void __attribute__((noinline))
finish(const struct kernel_matmul_task *task, size_t panel, size_t row, struct simd acc) {
    kernel_matmul_finish(task, panel, row, acc);
}

KERNEL_INLINE void store_tile(const struct kernel_matmul_task *task, size_t panel, size_t row,
                              int tokens, int panels, struct simd acc[TOKENS_MAX][PANELS_MAX]) {
    const struct op_product *product = task->product;
    size_t end = (panel + (size_t)panels) * HOST_WEIGHT_PANEL_ROWS;
    int is_plain = product->epilogue == OP_EPILOGUE_STORE && product->bias.buffer == NULL &&
                   end <= (size_t)task->weight->base.rows;
    float *out = kernel_plan_row(product->out, product->out_stride, row);
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            if (is_plain) {
                simd_store(out + (panel + (size_t)p) * HOST_WEIGHT_PANEL_ROWS, acc[t][p]);
            } else {
                finish(task, panel + (size_t)p, row + (size_t)t, acc[t][p]);
            }
        }
        out += product->out_stride;
    }
}

KERNEL_INLINE void run_tile(const struct kernel_matmul_task *task, size_t panel, size_t row,
                            int tokens, int panels) {
    struct simd acc[TOKENS_MAX][PANELS_MAX];
    const uint8_t *pairs[PANELS_MAX];
    const struct dot_block *x[TOKENS_MAX];
    size_t blocks = (size_t)task->weight->base.columns / BLOCK;
#pragma GCC unroll 3
    for (int p = 0; p < panels; p++) {
        pairs[p] = task->weight->panels + (panel + (size_t)p) * task->weight->panel_bytes;
    }
#pragma GCC unroll 8
    for (int t = 0; t < tokens; t++) {
        x[t] = (const struct dot_block *)task->quantised + (row + (size_t)t) * blocks;
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            acc[t][p] = simd_zero();
        }
    }
    for (size_t pair = 0; pair < blocks / 2; pair++) {
        add_block(pairs, 0, x, tokens, panels, acc);
        add_block(pairs, 1, x, tokens, panels, acc);
#pragma GCC unroll 3
        for (int p = 0; p < panels; p++) {
            pairs[p] += PAIR_BYTES;
        }
#pragma GCC unroll 8
        for (int t = 0; t < tokens; t++) {
            x[t] += 2;
        }
    }
    if (blocks % 2 != 0) {
        add_block(pairs, 0, x, tokens, panels, acc);
    }
    store_tile(task, panel, row, tokens, panels, acc);
}

typedef void tile_fn(const struct kernel_matmul_task *task, size_t panel, size_t row);

#define DEFINE_TILE(tokens, panels)                                                                \
    static void tile_##tokens##x##panels(const struct kernel_matmul_task *task, size_t panel,      \
                                         size_t row) {                                             \
        run_tile(task, panel, row, tokens, panels);                                                \
    }
DEFINE_TILE(1, 1)
DEFINE_TILE(2, 1)
DEFINE_TILE(3, 1)
DEFINE_TILE(4, 1)
DEFINE_TILE(5, 1)
DEFINE_TILE(6, 1)
DEFINE_TILE(7, 1)
DEFINE_TILE(8, 1)
DEFINE_TILE(1, 2)
DEFINE_TILE(2, 2)
DEFINE_TILE(3, 2)
DEFINE_TILE(4, 2)
DEFINE_TILE(1, 3)
DEFINE_TILE(2, 3)
DEFINE_TILE(3, 3)
DEFINE_TILE(4, 3)

static tile_fn *const tiles[PANELS_MAX][TOKENS_MAX] = {
    {tile_1x1, tile_2x1, tile_3x1, tile_4x1, tile_5x1, tile_6x1, tile_7x1, tile_8x1},
    {tile_1x2, tile_2x2, tile_3x2, tile_4x2},
    {tile_1x3, tile_2x3, tile_3x3, tile_4x3},
};

int KERNEL_SYMBOL(kernel_matmul_q8_few_rows)(void) {
    return 2 * DOT_FEW_TOKENS;
}

void KERNEL_SYMBOL(kernel_matmul_q8)(const struct kernel_matmul_task *task) {
    int is_few = task->row_end - task->row_begin <= 2 * DOT_FEW_TOKENS;
    size_t tile_tokens = is_few ? DOT_FEW_TOKENS : DOT_TILE_TOKENS;
    size_t tile_panels = is_few ? 1 : DOT_TILE_PANELS;
    size_t panels;
    for (size_t panel = task->panel_begin; panel < task->panel_end; panel += panels) {
        size_t panels_left = task->panel_end - panel;
        panels = panels_left < tile_panels ? panels_left : tile_panels;
        size_t tokens;
        for (size_t row = task->row_begin; row < task->row_end; row += tokens) {
            size_t rows_left = task->row_end - row;
            tokens = rows_left < tile_tokens ? rows_left : tile_tokens;
            tiles[panels - 1][tokens - 1](task, panel, row);
        }
    }
}
