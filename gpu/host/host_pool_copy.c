#include "gpu/host/host_pool_copy.h"

#include <string.h>

#include "gpu/host/host_memory.h"

static uint8_t *bytes_at(struct device_buffer *pool, size_t stride_bytes, int index,
                         size_t offset_bytes) {
    return host_memory_at(device_ptr_at(pool, (size_t)index * stride_bytes + offset_bytes));
}

/* Only the segments' bytes are touched: what lies between them is never written by any op. */
static void copy_tail(const struct op_kv_copy_tail *copy) {
    for (int s = 0; s < copy->segment_count; s++) {
        const struct op_kv_segment *segment = &copy->segments[s];
        size_t token_bytes = dtype_bytes(copy->type, (size_t)segment->token_values);
        size_t run_bytes = token_bytes * (size_t)copy->block_size;
        size_t kept_bytes = token_bytes * (size_t)copy->tokens;
        const uint8_t *from =
            bytes_at(copy->pool, copy->block_bytes, copy->from, segment->offset_bytes);
        uint8_t *to = bytes_at(copy->pool, copy->block_bytes, copy->to, segment->offset_bytes);
        for (int run = 0; run < segment->outer; run++) {
            if (from != to) {
                memcpy(to, from, kept_bytes);
            }
            memset(to + kept_bytes, 0, run_bytes - kept_bytes);
            from += run_bytes;
            to += run_bytes;
        }
    }
}

int host_pool_copy_takes(enum command_kind kind) {
    return kind == COMMAND_KV_COPY_TAIL || kind == COMMAND_STATE_COPY ||
           kind == COMMAND_STATE_CLEAR;
}

void host_pool_copy_run(const struct command *command) {
    assert(host_pool_copy_takes(command->kind));
    if (command->kind == COMMAND_KV_COPY_TAIL) {
        copy_tail(&command->kv_copy_tail);
    } else if (command->kind == COMMAND_STATE_COPY) {
        const struct op_state_copy *copy = &command->state_copy;
        if (copy->from != copy->to) {
            memcpy(bytes_at(copy->pool, copy->slot_bytes, copy->to, 0),
                   bytes_at(copy->pool, copy->slot_bytes, copy->from, 0), copy->slot_bytes);
        }
    } else {
        const struct op_state_clear *clear = &command->state_clear;
        memset(bytes_at(clear->pool, clear->slot_bytes, clear->slot, 0), 0, clear->slot_bytes);
    }
}
