/*
 * Where K and V of a sequence's blocks lie in the pool.
 */
#ifndef TERN_GPU_HOST_KERNEL_KV_H
#define TERN_GPU_HOST_KERNEL_KV_H

#include "gpu/host/kernel_plan.h"

static inline uint8_t *kernel_kv_block(const struct op_kv_view *kv,
                                       const struct batch_sequence *sequence, int block) {
    uint8_t *pool = host_memory_at(device_ptr_at(kv->pool, 0));
    return pool + (size_t)sequence->block_table[block] * kv->block_bytes;
}

/* K of the sequence's block BLOCK and one head: [key_size][block_size]. */
static inline uint8_t *kernel_kv_key(const struct op_kv_view *kv,
                                     const struct batch_sequence *sequence, int block,
                                     int kv_head) {
    size_t values = (size_t)kv_head * (size_t)kv->key_size * (size_t)kv->block_size;
    return kernel_kv_block(kv, sequence, block) + kv->key_offset_bytes +
           values * dtype_block_bytes(kv->type);
}

/* V of the sequence's block BLOCK and one head: [block_size][value_size]. */
static inline uint8_t *kernel_kv_value(const struct op_kv_view *kv,
                                       const struct batch_sequence *sequence, int block,
                                       int kv_head) {
    size_t values = (size_t)kv_head * (size_t)kv->value_size * (size_t)kv->block_size;
    return kernel_kv_block(kv, sequence, block) + kv->value_offset_bytes +
           values * dtype_block_bytes(kv->type);
}

/* 16 pool values, the first LANES of them read. */
KERNEL_INLINE struct simd kernel_kv_widen(enum dtype type, const uint8_t *from, int lanes) {
    const uint16_t *half = (const uint16_t *)(const void *)from;
    switch (type) {
    case DTYPE_F16:
        return lanes == SIMD_LANES ? simd_load_f16(half) : simd_load_f16_part(half, lanes);
    case DTYPE_BF16:
        return lanes == SIMD_LANES ? simd_load_bf16(half) : simd_load_bf16_part(half, lanes);
    default:
        return lanes == SIMD_LANES ? simd_load((const float *)(const void *)from)
                                   : simd_load_part((const float *)(const void *)from, lanes);
    }
}

#endif
