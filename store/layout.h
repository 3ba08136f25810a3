/*
 * Where everything of a conversation's model state lies: which segments of a KV
 * block belong to which attention layer, and which segments of a state slot to
 * which recurrent layer. Built by the engine from a model, read by the pools and
 * the store, which keep bytes and know nothing of architectures. The stored form
 * of blocks and slots is this form.
 *
 * A KV block holds K and V of all attention layers for block_size consecutive
 * tokens; a state slot the terminal state of all recurrent layers. Segments start
 * on 64 bytes; padding is zero.
 */
#ifndef TERN_STORE_LAYOUT_H
#define TERN_STORE_LAYOUT_H

#include "gpu/op.h"

enum { LAYOUT_ALIGN_BYTES = 64, LAYOUT_BLOCK_SIZE_DEFAULT = 32, LAYOUT_DIMS_MAX = 3 };

/* One attention layer: K [kv_heads][key_size][block_size], V [kv_heads][block_size][value_size]. */
struct layout_kv {
    int layer;
    int kv_heads;
    int key_size;
    int value_size;
    size_t key_offset_bytes;
    size_t value_offset_bytes;
};

/* One F32 array of one recurrent layer. */
struct layout_state {
    int layer;
    const char *part;          /* "conv" or "ssm"; static text */
    int dims[LAYOUT_DIMS_MAX]; /* slowest first; unused ones are 1 */
    size_t offset_bytes;
    size_t bytes; /* without padding */
};

struct layout {
    int block_size;
    enum dtype kv_type;
    struct layout_kv *kv;
    int kv_count;
    struct layout_state *states;
    int state_count;
    struct op_kv_segment *segments; /* K and V of every kv entry, 2 * kv_count */
    size_t block_bytes;             /* 0 without attention layers */
    size_t slot_bytes;              /* 0 without recurrent layers */
    size_t token_bytes;             /* of K and V a token, without padding */
};

/*
 * Starts a layout without layers. ERR_INVALID unless block_size is a power of two from 8 to 256
 * and kv_type is F32, F16 or BF16. layout_done frees what the layout owns.
 */
MUST_USE enum err layout_init(struct layout *layout, int block_size, enum dtype kv_type);
void layout_done(struct layout *layout);

/* Appends; the offsets and totals are computed. ERR_INVALID on sizes below 1 or totals that
 * overflow. *index_out, if not NULL, is the entry's index. */
MUST_USE enum err layout_add_kv(struct layout *layout, int layer, int kv_heads, int key_size,
                                int value_size, int *index_out);
MUST_USE enum err layout_add_state(struct layout *layout, int layer, const char *part,
                                   const int dims[LAYOUT_DIMS_MAX], int *index_out);

/* Blocks that cover TOKENS tokens. */
static inline int layout_blocks(const struct layout *layout, int tokens) {
    return (tokens + layout->block_size - 1) / layout->block_size;
}

#endif
