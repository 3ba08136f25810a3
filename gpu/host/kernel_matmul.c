/*
 * Plans matrix products: phase 1 quantises the rows of x, once for all Q8_0
 * products; phase 2's units are groups of panels by tiles of rows.
 */
#include "gpu/host/kernel_matmul.h"

enum {
    UNIT_PANELS = 12,        /* with many rows; a multiple of every tile's panels */
    TILE_BYTES = 512 * 1024, /* activations that stay in the second-level cache */
    TILE_ROWS_STEP = 8,      /* a multiple of every tile's tokens */
    Q8_BLOCK_CYCLES = 12,    /* of one panel and row; rough */
    Q8_STREAM_CYCLES = 150,  /* of one panel's block from memory; rough */
    PLAIN_VALUE_CYCLES = 1,
};

/* How one product of a command is cut into units: tile by tile, group by group. */
struct matmul_cut {
    size_t unit_panels;
    size_t groups;
    size_t tile_rows;
    size_t units;
};

static struct matmul_cut cut_product(const struct op_matmul *op, const struct host_weight *weight) {
    size_t rows = (size_t)op->rows;
    size_t row_bytes = weight->base.type == DTYPE_Q8_0
                           ? KERNEL_SYMBOL(kernel_matmul_q8_row_bytes)(weight->base.columns)
                           : (size_t)weight->base.columns * sizeof(float);
    struct matmul_cut cut = {.unit_panels = UNIT_PANELS, .tile_rows = rows};
    if (op->rows <= KERNEL_SYMBOL(kernel_matmul_q8_few_rows)()) {
        cut.unit_panels = weight->base.type == DTYPE_Q8_0 ? 1 : 4;
    } else if (rows * row_bytes > TILE_BYTES) {
        size_t tile = TILE_BYTES / row_bytes / TILE_ROWS_STEP * TILE_ROWS_STEP;
        cut.tile_rows = tile > TILE_ROWS_STEP ? tile : TILE_ROWS_STEP;
    }
    cut.groups = ((size_t)weight->panel_count + cut.unit_panels - 1) / cut.unit_panels;
    size_t tiles = (rows + cut.tile_rows - 1) / cut.tile_rows;
    cut.units = tiles * cut.groups;
    return cut;
}

static const struct host_weight *weight_of(const struct op_product *product) {
    return (const struct host_weight *)(const void *)product->weight;
}

static void matmul_quantise_run(const struct kernel_call *call, size_t begin, size_t end,
                                int worker) {
    (void)worker;
    const struct op_matmul *op = &call->command->matmul;
    int columns = op->products[0].weight->columns;
    size_t row_bytes = KERNEL_SYMBOL(kernel_matmul_q8_row_bytes)(columns);
    for (size_t r = begin; r < end; r++) {
        KERNEL_SYMBOL(kernel_matmul_q8_quantise)
        (kernel_plan_row(op->in, op->in_stride, r), columns,
         (uint8_t *)call->scratch + r * row_bytes);
    }
}

/* Units BEGIN to END of one product. */
static void run_product(const struct kernel_call *call, const struct op_product *product,
                        const struct matmul_cut *cut, size_t begin, size_t end) {
    const struct op_matmul *op = &call->command->matmul;
    const struct host_weight *weight = weight_of(product);
    size_t rows = (size_t)op->rows;
    size_t panels = (size_t)weight->panel_count;
    size_t next;
    for (size_t unit = begin; unit < end; unit = next) {
        size_t tile = unit / cut->groups;
        size_t group = unit % cut->groups;
        next = (tile + 1) * cut->groups < end ? (tile + 1) * cut->groups : end;
        size_t last_panel = (group + next - unit) * cut->unit_panels;
        size_t last_row = (tile + 1) * cut->tile_rows;
        struct kernel_matmul_task task = {
            .product = product,
            .weight = weight,
            .in = host_memory_at(op->in),
            .in_stride = op->in_stride,
            .quantised = call->scratch,
            .panel_begin = group * cut->unit_panels,
            .panel_end = last_panel < panels ? last_panel : panels,
            .row_begin = tile * cut->tile_rows,
            .row_end = last_row < rows ? last_row : rows,
        };
        if (weight->base.type == DTYPE_Q8_0) {
            KERNEL_SYMBOL(kernel_matmul_q8)(&task);
        } else {
            KERNEL_SYMBOL(kernel_matmul_plain)(&task);
        }
    }
}

static void matmul_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_matmul *op = &call->command->matmul;
    size_t first = 0; /* unit of the product */
    for (int i = 0; i < op->product_count && first < end; i++) {
        const struct op_product *product = &op->products[i];
        struct matmul_cut cut = cut_product(op, weight_of(product));
        size_t from = begin > first ? begin - first : 0;
        size_t to = end - first < cut.units ? end - first : cut.units;
        if (from < to) {
            run_product(call, product, &cut, from, to);
        }
        first += cut.units;
    }
}

void KERNEL_SYMBOL(kernel_plan_matmul)(const struct command *command, int threads,
                                       struct kernel_plan *out) {
    const struct op_matmul *op = &command->matmul;
    size_t rows = (size_t)op->rows;
    size_t units = 0;
    size_t cost = 0;
    int has_q8 = 0;
    out->phase_count = 0;
    if (rows == 0) {
        return;
    }
    for (int i = 0; i < op->product_count; i++) {
        const struct host_weight *weight = weight_of(&op->products[i]);
        struct matmul_cut cut = cut_product(op, weight);
        size_t columns = (size_t)weight->base.columns;
        size_t panel_cost = columns * rows * PLAIN_VALUE_CYCLES;
        if (weight->base.type == DTYPE_Q8_0) {
            size_t compute = rows * Q8_BLOCK_CYCLES;
            has_q8 = 1;
            panel_cost = columns / HOST_WEIGHT_BLOCK_VALUES *
                         (compute > Q8_STREAM_CYCLES ? compute : Q8_STREAM_CYCLES);
        }
        units += cut.units;
        cost += panel_cost * (size_t)weight->panel_count;
    }
    if (has_q8) {
        int columns = op->products[0].weight->columns;
        out->phases[out->phase_count++] =
            kernel_plan_phase(matmul_quantise_run, rows, (size_t)columns, threads);
        out->scratch_bytes = rows * KERNEL_SYMBOL(kernel_matmul_q8_row_bytes)(columns);
    }
    out->phases[out->phase_count++] =
        kernel_plan_phase(matmul_run, units, cost / (units + 1), threads);
}
