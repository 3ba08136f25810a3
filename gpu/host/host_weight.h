/*
 * A packed weight matrix: panels of 16 output rows, so that SIMD lanes run over
 * outputs; one layout for any number of tokens. The last panel is filled up with
 * zero rows. A panel is contiguous:
 *
 *   F32, F16, BF16: for each k in order, 16 values (row 0..15), in the type.
 *   Q8_0: for each pair of 32-value blocks, 64 bytes of scales (F16, block then
 *         row) and 2 x 512 bytes of quants: for each run of 4 k, 16 rows x 4 bytes,
 *         each q + 128 as an unsigned byte. An odd last block has its pair's other
 *         half unused (zeros), never read as data.
 *
 * All panels start on 64 bytes; matrices lie one after another in huge pages where
 * the system grants them (host_arena.h).
 */
#ifndef TERN_GPU_HOST_WEIGHT_H
#define TERN_GPU_HOST_WEIGHT_H

#include "gpu/backend.h"
#include "gpu/host/host_arena.h"
#include "gpu/host/worker_pool.h"

enum { HOST_WEIGHT_PANEL_ROWS = 16, HOST_WEIGHT_BLOCK_VALUES = 32 };

struct host_weight {
    struct device_weight base;
    struct host_arena *arena; /* where the panels come from; outlives the weight */
    uint8_t *panels;
    size_t panel_bytes;
    int panel_count;
    size_t mapped_bytes; /* what `panels` takes of memory */
};

/* Bytes that a packed matrix takes. */
size_t host_weight_packed_bytes(enum dtype type, int rows, int columns);

/* Packs by all workers. The caller has checked the memory cap and fills base.device. */
MUST_USE enum err host_weight_create(struct host_arena *arena, struct worker_pool *pool,
                                     const struct device_weight_params *params,
                                     struct host_weight **out);
void host_weight_destroy(struct host_weight *weight);

/* Row ROW in its GGUF form (dtype_bytes(type, columns) bytes), copied to TO. */
void host_weight_get_row(const struct host_weight *weight, int row, void *to);

#endif
