#include "store/layout.h"

#include <stdlib.h>

static int is_power_of_two(int value) {
    return value > 0 && (value & (value - 1)) == 0;
}

enum err layout_init(struct layout *layout, int block_size, enum dtype kv_type) {
    if (!is_power_of_two(block_size) || block_size < 8 || block_size > 256) {
        return err_fail(ERR_INVALID, "block size %d is not a power of two from 8 to 256",
                        block_size);
    }
    if (kv_type != DTYPE_F32 && kv_type != DTYPE_F16 && kv_type != DTYPE_BF16) {
        return err_fail(ERR_INVALID, "KV type %s is not F32, F16 or BF16", dtype_name(kv_type));
    }
    *layout = (struct layout){.block_size = block_size, .kv_type = kv_type};
    return ERR_OK;
}

void layout_done(struct layout *layout) {
    free(layout->kv);
    free(layout->states);
    free(layout->segments);
    *layout = (struct layout){0};
}

/* bytes = product of FACTORS, rounded up to the alignment; ERR_INVALID past LIMIT. */
static enum err product_bytes(const size_t *factors, size_t count, size_t *raw, size_t *aligned) {
    const size_t limit = SIZE_MAX / 4; /* leaves room for rounding up and for sums */
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++) {
        if (factors[i] != 0 && bytes > limit / factors[i]) {
            return err_fail(ERR_INVALID, "model state sizes overflow");
        }
        bytes *= factors[i];
    }
    *raw = bytes;
    *aligned = (bytes + LAYOUT_ALIGN_BYTES - 1) / LAYOUT_ALIGN_BYTES * LAYOUT_ALIGN_BYTES;
    return ERR_OK;
}

static enum err add_offset(size_t *total, size_t bytes) {
    if (*total > SIZE_MAX / 4 - bytes) {
        return err_fail(ERR_INVALID, "model state sizes overflow");
    }
    *total += bytes;
    return ERR_OK;
}

/* Grows an array by one element and returns its new place through *array. */
static enum err grow(void **array, int count, size_t element_bytes) {
    void *grown = realloc(*array, ((size_t)count + 1) * element_bytes);
    if (grown == NULL) {
        return err_fail(ERR_NOMEM, "layout of %d entries", count + 1);
    }
    *array = grown;
    return ERR_OK;
}

enum err layout_add_kv(struct layout *layout, int layer, int kv_heads, int key_size, int value_size,
                       int *index_out) {
    if (kv_heads < 1 || key_size < 1 || value_size < 1) {
        return err_fail(ERR_INVALID, "layer %d: %d KV heads of sizes %d and %d", layer, kv_heads,
                        key_size, value_size);
    }
    size_t element_bytes = dtype_bytes(layout->kv_type, 1);
    size_t key_raw = 0, key_bytes = 0, value_raw = 0, value_bytes = 0;
    TRY(product_bytes(
        (size_t[]){(size_t)kv_heads, (size_t)key_size, (size_t)layout->block_size, element_bytes},
        4, &key_raw, &key_bytes));
    TRY(product_bytes(
        (size_t[]){(size_t)kv_heads, (size_t)value_size, (size_t)layout->block_size, element_bytes},
        4, &value_raw, &value_bytes));
    TRY(grow((void **)&layout->kv, layout->kv_count, sizeof *layout->kv));
    TRY(grow((void **)&layout->segments, 2 * layout->kv_count + 1, sizeof *layout->segments));
    size_t total = layout->block_bytes;
    TRY(add_offset(&total, key_bytes));
    TRY(add_offset(&total, value_bytes));
    struct layout_kv entry = {
        .layer = layer,
        .kv_heads = kv_heads,
        .key_size = key_size,
        .value_size = value_size,
        .key_offset_bytes = layout->block_bytes,
        .value_offset_bytes = layout->block_bytes + key_bytes,
    };
    layout->segments[2 * layout->kv_count] = (struct op_kv_segment){
        .offset_bytes = entry.key_offset_bytes,
        .outer = kv_heads * key_size,
        .token_values = 1,
    };
    layout->segments[2 * layout->kv_count + 1] = (struct op_kv_segment){
        .offset_bytes = entry.value_offset_bytes,
        .outer = kv_heads,
        .token_values = value_size,
    };
    layout->kv[layout->kv_count] = entry;
    layout->block_bytes = total;
    layout->token_bytes += (key_raw + value_raw) / (size_t)layout->block_size;
    if (index_out != NULL) {
        *index_out = layout->kv_count;
    }
    layout->kv_count++;
    return ERR_OK;
}

enum err layout_add_state(struct layout *layout, int layer, const char *part,
                          const int dims[LAYOUT_DIMS_MAX], int *index_out) {
    size_t factors[LAYOUT_DIMS_MAX + 1] = {sizeof(float)};
    for (int i = 0; i < LAYOUT_DIMS_MAX; i++) {
        if (dims[i] < 1) {
            return err_fail(ERR_INVALID, "layer %d: %s state with dimension %d", layer, part,
                            dims[i]);
        }
        factors[i + 1] = (size_t)dims[i];
    }
    size_t raw = 0, aligned = 0;
    TRY(product_bytes(factors, ARRAY_LEN(factors), &raw, &aligned));
    TRY(grow((void **)&layout->states, layout->state_count, sizeof *layout->states));
    size_t total = layout->slot_bytes;
    TRY(add_offset(&total, aligned));
    struct layout_state entry = {
        .layer = layer,
        .part = part,
        .offset_bytes = layout->slot_bytes,
        .bytes = raw,
    };
    for (int i = 0; i < LAYOUT_DIMS_MAX; i++) {
        entry.dims[i] = dims[i];
    }
    layout->states[layout->state_count] = entry;
    layout->slot_bytes = total;
    if (index_out != NULL) {
        *index_out = layout->state_count;
    }
    layout->state_count++;
    return ERR_OK;
}
