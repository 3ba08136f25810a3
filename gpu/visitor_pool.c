/*
 * I1  A block or slot is visited as one range per segment, checked as it is visited: a batch
 *     names thousands of blocks, and none is looked at twice.
 * I2  A state slot that is written (a running slot or a mark) belongs to one sequence alone.
 */
#include "gpu/visitor.h"

#include "gpu/backend.h"

enum { BLOCK_SIZE_MIN = 8, BLOCK_SIZE_MAX = 256 };

enum err visitor_check_kv(const struct visitor *v, const struct op_kv_view *kv,
                          struct visitor_kv *out) {
    if (kv->pool == NULL) {
        return err_fail(ERR_INVALID, "%s: kv.pool is missing", v->op);
    }
    if (kv->type != DTYPE_F32 && kv->type != DTYPE_F16 && kv->type != DTYPE_BF16) {
        return err_fail(ERR_INVALID, "%s: kv.type %d is not F32, F16 or BF16", v->op,
                        (int)kv->type);
    }
    if (kv->block_size < BLOCK_SIZE_MIN || kv->block_size > BLOCK_SIZE_MAX ||
        (kv->block_size & (kv->block_size - 1)) != 0) {
        return err_fail(ERR_INVALID, "%s: kv.block_size %d is not a power of two from %d to %d",
                        v->op, kv->block_size, BLOCK_SIZE_MIN, BLOCK_SIZE_MAX);
    }
    TRY(visitor_require_positive(v, "kv.kv_heads", kv->kv_heads));
    TRY(visitor_require_positive(v, "kv.key_size", kv->key_size));
    TRY(visitor_require_positive(v, "kv.value_size", kv->value_size));
    size_t value_bytes = dtype_block_bytes(kv->type);
    size_t token_bytes = (size_t)kv->block_size * value_bytes;
    const size_t key[3] = {(size_t)kv->kv_heads, (size_t)kv->key_size, token_bytes};
    const size_t value[3] = {(size_t)kv->kv_heads, (size_t)kv->value_size, token_bytes};
    size_t key_end = 0;
    size_t value_end = 0;
    TRY(visitor_extent(v, "kv key", key, 0, &out->key_bytes));
    TRY(visitor_extent(v, "kv value", value, 0, &out->value_bytes));
    TRY(visitor_extent(v, "kv key", key, kv->key_offset_bytes, &key_end));
    TRY(visitor_extent(v, "kv value", value, kv->value_offset_bytes, &value_end));
    if (key_end > kv->block_bytes || value_end > kv->block_bytes) {
        return err_fail(ERR_INVALID, "%s: kv: K to byte %zu and V to byte %zu of a block of %zu",
                        v->op, key_end, value_end, kv->block_bytes);
    }
    if (kv->key_offset_bytes < value_end && kv->value_offset_bytes < key_end) {
        return err_fail(ERR_INVALID, "%s: kv: K overlaps V", v->op);
    }
    if ((kv->key_offset_bytes | kv->value_offset_bytes | kv->block_bytes) % value_bytes != 0) {
        return err_fail(ERR_INVALID, "%s: kv: offsets are not multiples of %zu", v->op,
                        value_bytes);
    }
    return ERR_OK;
}

/* Visits blocks [first, end) of one sequence. */
enum err visitor_visit_blocks(const struct visitor *v, const struct op_kv_view *kv,
                              const struct visitor_kv *size, const struct batch_sequence *sequence,
                              int first, int end, int is_written) {
    if (sequence->blocks < end || (end > first && sequence->block_table == NULL)) {
        return err_fail(ERR_INVALID, "%s: batch: %d blocks do not cover %d tokens", v->op,
                        sequence->blocks, sequence->position + sequence->rows);
    }
    for (int i = first; i < end; i++) {
        int32_t block = sequence->block_table[i];
        if (block < 0) {
            return err_fail(ERR_INVALID, "%s: batch: block %d of a sequence is %d", v->op, i,
                            (int)block);
        }
        const size_t factors[3] = {(size_t)block, kv->block_bytes, 1};
        size_t block_end = 0;
        TRY(visitor_extent(v, "kv", factors, kv->block_bytes, &block_end));
        struct device_ptr at = device_ptr_at(kv->pool, block_end - kv->block_bytes);
        visitor_visit(v, &(struct command_range){.at = device_ptr_add(at, kv->key_offset_bytes),
                                                 .bytes = size->key_bytes,
                                                 .is_written = is_written,
                                                 .operand = "kv key"});
        visitor_visit(v, &(struct command_range){.at = device_ptr_add(at, kv->value_offset_bytes),
                                                 .bytes = size->value_bytes,
                                                 .is_written = is_written,
                                                 .operand = "kv value"});
    }
    return ERR_OK;
}

enum err visitor_check_state(const struct visitor *v, const struct op_state_view *state,
                             size_t values) {
    if (state->pool == NULL) {
        return err_fail(ERR_INVALID, "%s: state.pool is missing", v->op);
    }
    const size_t factors[3] = {values, sizeof(float), 1};
    size_t end = 0;
    TRY(visitor_extent(v, "state", factors, state->offset_bytes, &end));
    if (end > state->slot_bytes) {
        return err_fail(ERR_INVALID, "%s: state: to byte %zu of a slot of %zu", v->op, end,
                        state->slot_bytes);
    }
    if ((state->offset_bytes | state->slot_bytes) % sizeof(float) != 0) {
        return err_fail(ERR_INVALID, "%s: state: offsets are not multiples of %zu", v->op,
                        sizeof(float));
    }
    return ERR_OK;
}

/* Whether SLOT is one that sequences before SEQUENCE_IDX, or this one before mark MARK_IDX, write;
 * mark -1 is the running slot. */
static int slot_is_taken(const struct batch_layout *layout, int sequence_idx, int mark_idx,
                         int slot) {
    for (int i = 0; i <= sequence_idx; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        if (sequence->rows == 0) {
            continue;
        }
        int marks = i < sequence_idx ? sequence->mark_count : mark_idx;
        if ((i < sequence_idx || mark_idx >= 0) && sequence->state_slot == slot) {
            return 1;
        }
        for (int j = 0; j < marks; j++) {
            if (sequence->marks[j].slot == slot) {
                return 1;
            }
        }
    }
    return 0;
}

static enum err visit_slot(const struct visitor *v, const struct batch_layout *layout,
                           const struct op_state_view *state, size_t bytes, int sequence_idx,
                           int mark_idx) {
    const struct batch_sequence *sequence = &layout->sequences[sequence_idx];
    int slot = mark_idx < 0 ? sequence->state_slot : sequence->marks[mark_idx].slot;
    const char *name = mark_idx < 0 ? "state" : "mark";
    if (slot < 0) {
        return err_fail(ERR_INVALID, "%s: batch: sequence %d has %s slot %d", v->op, sequence_idx,
                        name, slot);
    }
    if (slot_is_taken(layout, sequence_idx, mark_idx, slot)) {
        return err_fail(ERR_INVALID, "%s: batch: %s slot %d of sequence %d is written twice", v->op,
                        name, slot, sequence_idx);
    }
    const size_t factors[3] = {(size_t)slot, state->slot_bytes, 1};
    size_t end = 0;
    TRY(visitor_extent(v, name, factors, state->slot_bytes, &end));
    visitor_visit(v,
                  &(struct command_range){.at = device_ptr_at(state->pool, end - state->slot_bytes +
                                                                               state->offset_bytes),
                                          .bytes = bytes,
                                          .is_written = 1,
                                          .operand = name});
    return ERR_OK;
}

/* Visits the running slot and the mark slots of every sequence that has rows. */
enum err visitor_visit_slots(const struct visitor *v, const struct batch *batch,
                             const struct op_state_view *state, size_t values) {
    const struct batch_layout *layout = &batch->layout;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        if (sequence->rows == 0) {
            continue;
        }
        for (int j = -1; j < sequence->mark_count; j++) {
            TRY(visit_slot(v, layout, state, values * sizeof(float), i, j));
        }
    }
    return ERR_OK;
}
