/*
 * What the reference's files share: addresses turned into typed pointers, pool
 * values widened, and one function per op. Internal to gpu/reference/.
 */
#ifndef TERN_GPU_REFERENCE_OP_H
#define TERN_GPU_REFERENCE_OP_H

#include "gpu/reference/reference.h"

/* NULL for an operand that is "none". */
float *reference_op_floats(const struct reference_memory *memory, struct device_ptr ptr);
void *reference_op_at(const struct reference_memory *memory, struct device_ptr ptr);

/* Value IDX of an array of F32, F16 or BF16. */
float reference_op_load(enum dtype type, const void *values, size_t idx);
void reference_op_store(enum dtype type, void *values, size_t idx, float value);

/* tree16 of op.h; P is used up. */
float reference_op_tree16(float p[16]);

/* reference_rows.c */
MUST_USE enum err reference_op_embed(const struct op_embed *p,
                                     const struct reference_memory *memory);
void reference_op_gather_rows(const struct op_gather_rows *p,
                              const struct reference_memory *memory);
void reference_op_rms_norm(const struct op_rms_norm *p, const struct reference_memory *memory);
void reference_op_gated_norm(const struct op_gated_norm *p, const struct reference_memory *memory);
void reference_op_swiglu(const struct op_swiglu *p, const struct reference_memory *memory);

/* reference_product.c */
MUST_USE enum err reference_op_matmul(const struct op_matmul *p,
                                      const struct reference_memory *memory);

/* reference_attention.c */
void reference_op_rope_table(const struct op_rope_table *p, const struct reference_memory *memory);
void reference_op_rope(const struct op_rope *p, const struct reference_memory *memory);
void reference_op_kv_write(const struct op_kv_write *p, const struct reference_memory *memory);
MUST_USE enum err reference_op_attention(const struct op_attention *p,
                                         const struct reference_memory *memory);

/* reference_recurrence.c */
void reference_op_conv1d(const struct op_conv1d *p, const struct reference_memory *memory);
void reference_op_ssm_scan(const struct op_ssm_scan *p, const struct reference_memory *memory);

/* reference_pool.c */
void reference_op_kv_copy_tail(const struct op_kv_copy_tail *p,
                               const struct reference_memory *memory);
void reference_op_state_copy(const struct op_state_copy *p, const struct reference_memory *memory);
void reference_op_state_clear(const struct op_state_clear *p,
                              const struct reference_memory *memory);

#endif
