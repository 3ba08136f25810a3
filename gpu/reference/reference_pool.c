/* Copies within the pools. */
#include "gpu/reference/reference_op.h"

#include <string.h>

void reference_op_kv_copy_tail(const struct op_kv_copy_tail *p,
                               const struct reference_memory *memory) {
    size_t value_bytes = dtype_block_bytes(p->type);
    for (int i = 0; i < p->segment_count; i++) {
        const struct op_kv_segment *segment = &p->segments[i];
        size_t token_bytes = (size_t)segment->token_values * value_bytes;
        size_t run_bytes = token_bytes * (size_t)p->block_size;
        size_t kept_bytes = token_bytes * (size_t)p->tokens;
        size_t to_begin = (size_t)p->to * p->block_bytes + segment->offset_bytes;
        size_t from_begin = (size_t)p->from * p->block_bytes + segment->offset_bytes;
        for (size_t run = 0; run < (size_t)segment->outer; run++) {
            uint8_t *to =
                reference_op_at(memory, device_ptr_at(p->pool, to_begin + run * run_bytes));
            if (p->from != p->to && kept_bytes > 0) {
                memcpy(
                    to,
                    reference_op_at(memory, device_ptr_at(p->pool, from_begin + run * run_bytes)),
                    kept_bytes);
            }
            memset(to + kept_bytes, 0, run_bytes - kept_bytes);
        }
    }
}

void reference_op_state_copy(const struct op_state_copy *p, const struct reference_memory *memory) {
    void *to = reference_op_at(memory, device_ptr_at(p->pool, (size_t)p->to * p->slot_bytes));
    void *from = reference_op_at(memory, device_ptr_at(p->pool, (size_t)p->from * p->slot_bytes));
    if (p->from != p->to) {
        memcpy(to, from, p->slot_bytes);
    }
}

void reference_op_state_clear(const struct op_state_clear *p,
                              const struct reference_memory *memory) {
    memset(reference_op_at(memory, device_ptr_at(p->pool, (size_t)p->slot * p->slot_bytes)), 0,
           p->slot_bytes);
}
