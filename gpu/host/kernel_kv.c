/*
 * Stores K and V in the pool. A unit is a kv head of a sequence, so that no two
 * workers write into one run of tokens of a dimension.
 */
#include "gpu/host/kernel_kv.h"

enum {
    RUN_TOKENS = 32
}; /* tokens that are narrowed together, then written dimension by dimension */

KERNEL_INLINE void narrow_part(enum dtype type, void *to, struct simd x, int lanes) {
    switch (type) {
    case DTYPE_F16:
        simd_store_f16_part(to, x, lanes);
        break;
    case DTYPE_BF16:
        simd_store_bf16_part(to, x, lanes);
        break;
    default:
        simd_store_part(to, x, lanes);
        break;
    }
}

/* Where a run of tokens within one block comes from and goes to. */
struct kv_run {
    enum dtype type;
    const float *from; /* first token, first dimension */
    size_t from_stride;
    uint8_t *to; /* K: dimension 0 of the first token; V: the first token */
    int block_size;
    int tokens;
    int size; /* dimensions */
};

static void write_value_run(const struct kv_run *run) {
    size_t element = dtype_block_bytes(run->type);
    for (int t = 0; t < run->tokens; t++) {
        const float *from = run->from + (size_t)t * run->from_stride;
        uint8_t *to = run->to + (size_t)t * (size_t)run->size * element;
        for (int d = 0; d < run->size; d += SIMD_LANES) {
            int lanes = kernel_plan_lanes(d, run->size);
            narrow_part(run->type, to + (size_t)d * element, simd_load_part(from + d, lanes),
                        lanes);
        }
    }
}

static void write_key_run(const struct kv_run *run) {
    size_t element = dtype_block_bytes(run->type);
    size_t dimension_bytes = (size_t)run->block_size * element;
    for (int d = 0; d < run->size; d += SIMD_LANES) {
        int lanes = kernel_plan_lanes(d, run->size);
        union {
            uint16_t half[RUN_TOKENS][SIMD_LANES];
            uint32_t full[RUN_TOKENS][SIMD_LANES];
        } narrowed;
        for (int t = 0; t < run->tokens; t++) {
            struct simd x = simd_load_part(run->from + (size_t)t * run->from_stride + d, lanes);
            void *to = element == 2 ? (void *)narrowed.half[t] : (void *)narrowed.full[t];
            narrow_part(run->type, to, x, SIMD_LANES);
        }
        for (int i = 0; i < lanes; i++) {
            uint8_t *to = run->to + (size_t)(d + i) * dimension_bytes;
            for (int t = 0; t < run->tokens; t++) {
                if (element == 2) {
                    memcpy(to + t * 2, &narrowed.half[t][i], 2);
                } else {
                    memcpy(to + t * 4, &narrowed.full[t][i], 4);
                }
            }
        }
    }
}

static void kv_write_head(const struct op_kv_write *op, const struct batch_sequence *sequence,
                          int first_row, int kv_head) {
    const struct op_kv_view *kv = &op->kv;
    size_t element = dtype_block_bytes(kv->type);
    int tokens;
    for (int i = 0; i < sequence->rows; i += tokens) {
        int position = sequence->position + i;
        int in_block = position & (kv->block_size - 1); /* a power of two */
        tokens = kv->block_size - in_block;
        tokens = tokens < sequence->rows - i ? tokens : sequence->rows - i;
        tokens = tokens < RUN_TOKENS ? tokens : RUN_TOKENS;
        int block = position / kv->block_size;
        uint8_t *key = kernel_kv_key(kv, sequence, block, kv_head);
        uint8_t *value = kernel_kv_value(kv, sequence, block, kv_head);
        size_t row = (size_t)(first_row + i);
        struct kv_run run = {
            .type = kv->type,
            .from = kernel_plan_row(op->key, op->key_stride, row) + kv_head * kv->key_size,
            .from_stride = op->key_stride,
            .to = key + (size_t)in_block * element,
            .block_size = kv->block_size,
            .tokens = tokens,
            .size = kv->key_size,
        };
        write_key_run(&run);
        run.from = kernel_plan_row(op->value, op->value_stride, row) + kv_head * kv->value_size;
        run.from_stride = op->value_stride;
        run.to = value + (size_t)in_block * (size_t)kv->value_size * element;
        run.size = kv->value_size;
        write_value_run(&run);
    }
}

static void kv_write_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_kv_write *op = &call->command->kv_write;
    const struct batch_layout *layout = &op->batch->layout;
    size_t heads = (size_t)op->kv.kv_heads;
    for (size_t unit = begin; unit < end; unit++) {
        int s = (int)(unit / heads);
        kv_write_head(op, &layout->sequences[s], kernel_plan_first_row(layout, s),
                      (int)(unit % heads));
    }
}

void KERNEL_SYMBOL(kernel_plan_kv_write)(const struct command *command, int threads,
                                         struct kernel_plan *out) {
    const struct op_kv_write *op = &command->kv_write;
    const struct batch *batch = op->batch;
    size_t heads = (size_t)op->kv.kv_heads;
    size_t rows = (size_t)batch->rows;
    size_t units = (size_t)batch->layout.sequence_count * heads;
    size_t values = rows * (size_t)(op->kv.key_size * 2 + op->kv.value_size) * heads;
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(kv_write_run, units, values / (units + 1), threads);
}
