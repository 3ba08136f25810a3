#include "gpu/host/host_weight.h"

#include <stdlib.h>
#include <string.h>

enum {
    ROWS = HOST_WEIGHT_PANEL_ROWS,
    BLOCK = HOST_WEIGHT_BLOCK_VALUES,
    ALIGNMENT = 64,
    RUN = 4,                                     /* values of a row that lie together */
    SCALES_BYTES = ROWS * (int)sizeof(uint16_t), /* of one block */
    QUANTS_BYTES = ROWS * BLOCK,
    PAIR_BYTES = 2 * (SCALES_BYTES + QUANTS_BYTES),
};

#define FLIP_SIGNS 0x80808080u /* adds 128 to each of four bytes */

/* GGUF's block. */
struct q8_block {
    uint16_t scale;
    uint8_t q[BLOCK];
};
_Static_assert(sizeof(struct q8_block) == 34, "a Q8_0 block has 34 bytes");

static size_t panel_bytes_of(enum dtype type, int columns) {
    if (type == DTYPE_Q8_0) {
        size_t blocks = (size_t)columns / BLOCK;
        return (blocks + 1) / 2 * PAIR_BYTES;
    }
    size_t bytes = (size_t)columns * ROWS * dtype_block_bytes(type);
    return (bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);
}

static size_t panel_count_of(int rows) {
    return ((size_t)rows + ROWS - 1) / ROWS;
}

size_t host_weight_packed_bytes(enum dtype type, int rows, int columns) {
    return panel_count_of(rows) * panel_bytes_of(type, columns);
}

/* Where a block's 16 scales, and where its quants, lie in a panel. */
static uint8_t *scales_at(uint8_t *panel, size_t block) {
    return panel + block / 2 * PAIR_BYTES + block % 2 * SCALES_BYTES;
}

static uint8_t *quants_at(uint8_t *panel, size_t block) {
    return panel + block / 2 * PAIR_BYTES + 2 * SCALES_BYTES + block % 2 * QUANTS_BYTES;
}

/* --- packing ------------------------------------------------------------------------- */

struct pack {
    const struct host_weight *weight;
    const uint8_t *data;
    size_t row_bytes;
};

static void pack_q8_row(uint8_t *panel, size_t lane, const uint8_t *from, size_t blocks) {
    for (size_t b = 0; b < blocks; b++) {
        struct q8_block block;
        memcpy(&block, from + b * sizeof block, sizeof block);
        memcpy(scales_at(panel, b) + lane * sizeof block.scale, &block.scale, sizeof block.scale);
        uint8_t *quants = quants_at(panel, b) + lane * RUN;
        for (size_t k = 0; k < BLOCK; k += RUN) {
            uint32_t four;
            memcpy(&four, block.q + k, sizeof four);
            four ^= FLIP_SIGNS;
            memcpy(quants + k * ROWS, &four, sizeof four);
        }
    }
}

/* A row that the matrix doesn't have: scale +0, all q 0. The mapping is zero already. */
static void pack_q8_zero_row(uint8_t *panel, size_t lane, size_t blocks) {
    const uint32_t four = FLIP_SIGNS;
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *quants = quants_at(panel, b) + lane * RUN;
        for (size_t k = 0; k < BLOCK; k += RUN) {
            memcpy(quants + k * ROWS, &four, sizeof four);
        }
    }
}

static void pack_plain_row(uint8_t *panel, size_t lane, const uint8_t *from, size_t columns,
                           size_t element) {
    uint8_t *to = panel + lane * element;
    if (element == sizeof(uint16_t)) {
        for (size_t k = 0; k < columns; k++) {
            memcpy(to + k * ROWS * 2, from + k * 2, 2);
        }
    } else {
        for (size_t k = 0; k < columns; k++) {
            memcpy(to + k * ROWS * 4, from + k * 4, 4);
        }
    }
}

static void pack_panels(void *context, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct pack *pack = context;
    const struct host_weight *weight = pack->weight;
    size_t columns = (size_t)weight->base.columns;
    for (size_t p = begin; p < end; p++) {
        uint8_t *panel = weight->panels + p * weight->panel_bytes;
        for (size_t lane = 0; lane < ROWS; lane++) {
            size_t row = p * ROWS + lane;
            int is_row = row < (size_t)weight->base.rows;
            const uint8_t *from = is_row ? pack->data + row * pack->row_bytes : NULL;
            if (weight->base.type != DTYPE_Q8_0) {
                if (is_row) {
                    pack_plain_row(panel, lane, from, columns,
                                   dtype_block_bytes(weight->base.type));
                }
            } else if (is_row) {
                pack_q8_row(panel, lane, from, columns / BLOCK);
            } else {
                pack_q8_zero_row(panel, lane, columns / BLOCK);
            }
        }
    }
}

/* --- creating ------------------------------------------------------------------------ */

enum err host_weight_create(struct host_arena *arena, struct worker_pool *pool,
                            const struct device_weight_params *params, struct host_weight **out) {
    if (params->rows <= 0 || params->columns <= 0 ||
        (size_t)params->columns % dtype_block_values(params->type) != 0) {
        return err_fail(ERR_INVALID,
                        "a weight of %d x %d %s values: expected positive sizes in "
                        "whole blocks",
                        params->rows, params->columns, dtype_name(params->type));
    }
    struct host_weight *weight = calloc(1, sizeof *weight);
    if (weight == NULL) {
        return err_fail(ERR_NOMEM, "no memory for a weight");
    }
    weight->base.type = params->type;
    weight->base.rows = params->rows;
    weight->base.columns = params->columns;
    weight->panel_count = (int)panel_count_of(params->rows);
    weight->panel_bytes = panel_bytes_of(params->type, params->columns);
    size_t packed = host_weight_packed_bytes(params->type, params->rows, params->columns);
    void *panels;
    enum err err = host_arena_take(arena, packed, &panels);
    if (err != ERR_OK) {
        free(weight);
        return err_context(err, "%d x %d %s weight", params->rows, params->columns,
                           dtype_name(params->type));
    }
    weight->arena = arena;
    weight->panels = panels;
    weight->mapped_bytes = host_arena_rounded_bytes(packed);
    struct pack pack = {
        .weight = weight,
        .data = params->data,
        .row_bytes = dtype_bytes(params->type, (size_t)params->columns),
    };
    size_t grain = (size_t)(1 << 18) / weight->panel_bytes + 1;
    worker_pool_run(pool, (size_t)weight->panel_count, grain, pack_panels, &pack);
    *out = weight;
    return ERR_OK;
}

void host_weight_destroy(struct host_weight *weight) {
    if (weight == NULL) {
        return;
    }
    host_arena_give(weight->arena, weight->panels, weight->mapped_bytes);
    free(weight);
}

/* --- unpacking ----------------------------------------------------------------------- */

void host_weight_get_row(const struct host_weight *weight, int row, void *to) {
    assert(row >= 0 && row < weight->base.rows);
    size_t lane = (size_t)row % ROWS;
    uint8_t *panel = weight->panels + (size_t)row / ROWS * weight->panel_bytes;
    size_t columns = (size_t)weight->base.columns;
    uint8_t *bytes = to;
    if (weight->base.type != DTYPE_Q8_0) {
        size_t element = dtype_block_bytes(weight->base.type);
        for (size_t k = 0; k < columns; k++) {
            memcpy(bytes + k * element, panel + (k * ROWS + lane) * element, element);
        }
        return;
    }
    for (size_t b = 0; b < columns / BLOCK; b++) {
        struct q8_block block;
        memcpy(&block.scale, scales_at(panel, b) + lane * sizeof block.scale, sizeof block.scale);
        const uint8_t *quants = quants_at(panel, b) + lane * RUN;
        for (size_t k = 0; k < BLOCK; k += RUN) {
            uint32_t four;
            memcpy(&four, quants + k * ROWS, sizeof four);
            four ^= FLIP_SIGNS;
            memcpy(block.q + k, &four, sizeof four);
        }
        memcpy(bytes + b * sizeof block, &block, sizeof block);
    }
}
