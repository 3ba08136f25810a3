/*
 * What every op touches, and what its params must satisfy. A range is visited only when all
 * params of the command have been found sound, except that pool blocks and slots are checked one
 * by one as they are visited.
 */
#include "gpu/command.h"

#include "gpu/backend.h"
#include "gpu/visitor.h"

enum { TAPS_MIN = 2, TAPS_MAX = 8 };

static const char *const names[COMMAND_KIND_COUNT] = {
    [COMMAND_EMBED] = "embed",
    [COMMAND_GATHER_ROWS] = "gather_rows",
    [COMMAND_RMS_NORM] = "rms_norm",
    [COMMAND_GATED_NORM] = "gated_norm",
    [COMMAND_MATMUL] = "matmul",
    [COMMAND_SWIGLU] = "swiglu",
    [COMMAND_ROPE_TABLE] = "rope_table",
    [COMMAND_ROPE] = "rope",
    [COMMAND_KV_WRITE] = "kv_write",
    [COMMAND_ATTENTION] = "attention",
    [COMMAND_CONV1D] = "conv1d",
    [COMMAND_SSM_SCAN] = "ssm_scan",
    [COMMAND_KV_COPY_TAIL] = "kv_copy_tail",
    [COMMAND_STATE_COPY] = "state_copy",
    [COMMAND_STATE_CLEAR] = "state_clear",
};

const char *command_name(enum command_kind kind) {
    return (size_t)kind < ARRAY_LEN(names) ? names[kind] : "unknown";
}

/* --- embedding, rows, norms, feed forward -------------------------------------------- */

static enum err visit_embed(struct visitor *v, const struct op_embed *p) {
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_require_weight(v, "weight", p->weight));
    for (int row = 0; row < p->batch->rows; row++) {
        int32_t token = p->batch->layout.tokens[row];
        if (token < 0 || token >= p->weight->rows) {
            return err_fail(ERR_INVALID, "%s: token %d of row %d is not one of %d", v->op,
                            (int)token, row, p->weight->rows);
        }
    }
    size_t columns = (size_t)p->weight->columns;
    TRY(visitor_add_out(v, "out", p->out, p->batch->rows, columns, columns));
    return visitor_finish(v);
}

static enum err visit_gather_rows(struct visitor *v, const struct op_gather_rows *p) {
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_require_positive(v, "columns", p->columns));
    const struct batch_layout *layout = &p->batch->layout;
    size_t columns = (size_t)p->columns;
    TRY(visitor_require_rows(v, "output count", layout->output_count));
    for (int i = 0; i < layout->output_count; i++) {
        int32_t row = layout->output_rows[i];
        if (row < 0 || row >= p->batch->rows) {
            return err_fail(ERR_INVALID, "%s: output row %d is not one of %d", v->op, (int)row,
                            p->batch->rows);
        }
    }
    TRY(visitor_add_rows(v, "in", p->in, layout->output_count > 0 ? p->batch->rows : 0, columns,
                         columns));
    TRY(visitor_add_out(v, "out", p->out, layout->output_count, columns, columns));
    return visitor_finish(v);
}

static enum err visit_rms_norm(struct visitor *v, const struct op_rms_norm *p) {
    TRY(visitor_require_rows(v, "rows", p->rows));
    TRY(visitor_require_positive(v, "columns", p->columns));
    size_t columns = (size_t)p->columns;
    TRY(visitor_add_shareable(v, "in", p->in, p->rows, columns, p->in_stride));
    TRY(visitor_add_vector(v, "weight", p->weight, p->rows, columns));
    TRY(visitor_add_out(v, "out", p->out, p->rows, columns, p->out_stride));
    return visitor_finish(v);
}

static enum err visit_gated_norm(struct visitor *v, const struct op_gated_norm *p) {
    TRY(visitor_require_rows(v, "rows", p->rows));
    TRY(visitor_require_multiple(v, "columns", p->columns, "groups", p->groups));
    size_t columns = (size_t)p->columns;
    TRY(visitor_add_shareable(v, "in", p->in, p->rows, columns, p->in_stride));
    TRY(visitor_add_rows(v, "gate", p->gate, p->rows, columns, p->gate_stride));
    if (p->weight.buffer != NULL) {
        TRY(visitor_add_vector(v, "weight", p->weight, p->rows, columns));
    }
    TRY(visitor_add_out(v, "out", p->out, p->rows, columns, p->out_stride));
    return visitor_finish(v);
}

static enum err visit_swiglu(struct visitor *v, const struct op_swiglu *p) {
    TRY(visitor_require_rows(v, "rows", p->rows));
    TRY(visitor_require_positive(v, "columns", p->columns));
    size_t columns = (size_t)p->columns;
    TRY(visitor_add_shareable(v, "gate", p->gate, p->rows, columns, p->gate_stride));
    TRY(visitor_add_shareable(v, "up", p->up, p->rows, columns, p->up_stride));
    TRY(visitor_add_out(v, "out", p->out, p->rows, columns, p->out_stride));
    return visitor_finish(v);
}

/* --- matrix products ----------------------------------------------------------------- */

static enum err visit_matmul(struct visitor *v, const struct op_matmul *p) {
    static const char *const out_names[OP_PRODUCTS_MAX] = {"products[0].out", "products[1].out",
                                                           "products[2].out", "products[3].out"};
    static const char *const bias_names[OP_PRODUCTS_MAX] = {"products[0].bias", "products[1].bias",
                                                            "products[2].bias", "products[3].bias"};
    TRY(visitor_require_rows(v, "rows", p->rows));
    if (p->product_count < 1 || p->product_count > OP_PRODUCTS_MAX) {
        return err_fail(ERR_INVALID, "%s: %d products, expected 1 to %d", v->op, p->product_count,
                        OP_PRODUCTS_MAX);
    }
    for (int i = 0; i < p->product_count; i++) {
        const struct op_product *product = &p->products[i];
        TRY(visitor_require_weight(v, "weight", product->weight));
        if (product->weight->columns != p->products[0].weight->columns) {
            return err_fail(ERR_INVALID, "%s: products[%d].weight has %d columns, the first %d",
                            v->op, i, product->weight->columns, p->products[0].weight->columns);
        }
        if ((unsigned)product->epilogue > OP_EPILOGUE_DIVIDE) {
            return err_fail(ERR_INVALID, "%s: products[%d] has no epilogue %d", v->op, i,
                            (int)product->epilogue);
        }
        size_t values = (size_t)product->weight->rows;
        if (product->bias.buffer != NULL) {
            TRY(visitor_add_vector(v, bias_names[i], product->bias, p->rows, values));
        }
        TRY(visitor_add_out(v, out_names[i], product->out, p->rows, values, product->out_stride));
    }
    TRY(visitor_add_rows(v, "in", p->in, p->rows, (size_t)p->products[0].weight->columns,
                         p->in_stride));
    return visitor_finish(v);
}

/* --- attention ----------------------------------------------------------------------- */

static enum err visit_rope_table(struct visitor *v, const struct op_rope_table *p) {
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_require_positive(v, "pairs", p->pairs));
    size_t pairs = (size_t)p->pairs;
    TRY(visitor_add(v, &(struct visitor_matrix){.name = "frequencies",
                                                .at = p->frequencies,
                                                .rows = p->batch->rows > 0 ? 1 : 0,
                                                .columns = pairs,
                                                .stride = pairs,
                                                .value_bytes = sizeof(double)}));
    TRY(visitor_add_out(v, "table", p->table, p->batch->rows, 2 * pairs, 2 * pairs));
    return visitor_finish(v);
}

static enum err visit_rope(struct visitor *v, const struct op_rope *p) {
    TRY(visitor_require_rows(v, "rows", p->rows));
    TRY(visitor_require_positive(v, "heads", p->heads));
    TRY(visitor_require_positive(v, "head_size", p->head_size));
    TRY(visitor_require_positive(v, "pairs", p->pairs));
    if (p->pairs > p->head_size / 2) {
        return err_fail(ERR_INVALID, "%s: %d pairs do not fit a head of %d", v->op, p->pairs,
                        p->head_size);
    }
    if (p->style != OP_ROPE_NEIGHBOURS && p->style != OP_ROPE_HALVES) {
        return err_fail(ERR_INVALID, "%s: no style %d", v->op, (int)p->style);
    }
    size_t pairs = (size_t)p->pairs;
    size_t columns = (size_t)p->heads * (size_t)p->head_size;
    TRY(visitor_add_rows(v, "table", p->table, p->rows, 2 * pairs, 2 * pairs));
    TRY(visitor_add_out(v, "x", p->x, p->rows, columns, p->x_stride));
    return visitor_finish(v);
}

/* Blocks that cover TOKENS tokens. */
static int blocks_of(int tokens, int block_size) {
    return tokens / block_size + (tokens % block_size != 0);
}

static enum err visit_kv_write(struct visitor *v, const struct op_kv_write *p) {
    struct visitor_kv size;
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_check_kv(v, &p->kv, &size));
    size_t heads = (size_t)p->kv.kv_heads;
    TRY(visitor_add_rows(v, "key", p->key, p->batch->rows, heads * (size_t)p->kv.key_size,
                         p->key_stride));
    TRY(visitor_add_rows(v, "value", p->value, p->batch->rows, heads * (size_t)p->kv.value_size,
                         p->value_stride));
    TRY(visitor_finish(v));
    for (int i = 0; i < p->batch->layout.sequence_count; i++) {
        const struct batch_sequence *sequence = &p->batch->layout.sequences[i];
        if (sequence->rows > 0) {
            int end = blocks_of(sequence->position + sequence->rows, p->kv.block_size);
            TRY(visitor_visit_blocks(v, &p->kv, &size, sequence,
                                     sequence->position / p->kv.block_size, end, 1));
        }
    }
    return ERR_OK;
}

static enum err visit_attention(struct visitor *v, const struct op_attention *p) {
    struct visitor_kv size;
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_check_kv(v, &p->kv, &size));
    TRY(visitor_require_multiple(v, "heads", p->heads, "kv.kv_heads", p->kv.kv_heads));
    size_t heads = (size_t)p->heads;
    TRY(visitor_add_rows(v, "query", p->query, p->batch->rows, heads * (size_t)p->kv.key_size,
                         p->query_stride));
    TRY(visitor_add_out(v, "out", p->out, p->batch->rows, heads * (size_t)p->kv.value_size,
                        p->out_stride));
    TRY(visitor_finish(v));
    for (int i = 0; i < p->batch->layout.sequence_count; i++) {
        const struct batch_sequence *sequence = &p->batch->layout.sequences[i];
        if (sequence->rows > 0) {
            int end = blocks_of(sequence->position + sequence->rows, p->kv.block_size);
            TRY(visitor_visit_blocks(v, &p->kv, &size, sequence, 0, end, 0));
        }
    }
    return ERR_OK;
}

/* --- recurrent layers ---------------------------------------------------------------- */

static enum err visit_conv1d(struct visitor *v, const struct op_conv1d *p) {
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_require_positive(v, "channels", p->channels));
    if (p->taps < TAPS_MIN || p->taps > TAPS_MAX) {
        return err_fail(ERR_INVALID, "%s: %d taps, expected %d to %d", v->op, p->taps, TAPS_MIN,
                        TAPS_MAX);
    }
    int rows = p->batch->rows;
    size_t channels = (size_t)p->channels;
    size_t values = (size_t)(p->taps - 1) * channels;
    TRY(visitor_check_state(v, &p->state, values));
    TRY(visitor_add_vector(v, "weight", p->weight, rows, channels * (size_t)p->taps));
    if (p->bias.buffer != NULL) {
        TRY(visitor_add_vector(v, "bias", p->bias, rows, channels));
    }
    TRY(visitor_add_rows(v, "in", p->in, rows, channels, p->in_stride));
    TRY(visitor_add_out(v, "out", p->out, rows, channels, p->out_stride));
    TRY(visitor_finish(v));
    return visitor_visit_slots(v, p->batch, &p->state, values);
}

static enum err visit_ssm_scan(struct visitor *v, const struct op_ssm_scan *p) {
    TRY(visitor_require_batch(v, p->batch));
    TRY(visitor_require_multiple(v, "heads", p->heads, "groups", p->groups));
    TRY(visitor_require_positive(v, "head_size", p->head_size));
    TRY(visitor_require_positive(v, "state_size", p->state_size));
    int rows = p->batch->rows;
    size_t heads = (size_t)p->heads;
    size_t columns = heads * (size_t)p->head_size;
    size_t group_columns = (size_t)p->groups * (size_t)p->state_size;
    const size_t factors[3] = {heads, (size_t)p->head_size, (size_t)p->state_size};
    size_t values = 0;
    TRY(visitor_extent(v, "state", factors, 0, &values));
    TRY(visitor_check_state(v, &p->state, values));
    TRY(visitor_add_rows(v, "x", p->x, rows, columns, p->x_stride));
    TRY(visitor_add_rows(v, "b", p->b, rows, group_columns, p->b_stride));
    TRY(visitor_add_rows(v, "c", p->c, rows, group_columns, p->c_stride));
    TRY(visitor_add_rows(v, "dt", p->dt, rows, heads, p->dt_stride));
    TRY(visitor_add_vector(v, "dt_bias", p->dt_bias, rows, heads));
    TRY(visitor_add_vector(v, "a", p->a, rows, heads));
    TRY(visitor_add_vector(v, "d", p->d, rows, heads));
    TRY(visitor_add_out(v, "out", p->out, rows, columns, p->out_stride));
    TRY(visitor_finish(v));
    return visitor_visit_slots(v, p->batch, &p->state, values);
}

/* --- pool copies --------------------------------------------------------------------- */

/* Block or slot IDX of a pool, as the address of its first byte. */
static enum err pool_entry(const struct visitor *v, const char *name, struct device_buffer *pool,
                           size_t entry_bytes, int idx, struct device_ptr *out) {
    if (pool == NULL) {
        return err_fail(ERR_INVALID, "%s: pool is missing", v->op);
    }
    if (entry_bytes == 0 || idx < 0) {
        return err_fail(ERR_INVALID, "%s: %s is %d, in units of %zu bytes", v->op, name, idx,
                        entry_bytes);
    }
    const size_t factors[3] = {(size_t)idx, entry_bytes, 1};
    size_t end = 0;
    TRY(visitor_extent(v, name, factors, entry_bytes, &end));
    *out = device_ptr_at(pool, end - entry_bytes);
    return ERR_OK;
}

static enum err segment_bytes(const struct visitor *v, const struct op_kv_copy_tail *p,
                              const struct op_kv_segment *segment, size_t *out) {
    size_t value_bytes = dtype_block_bytes(p->type);
    TRY(visitor_require_positive(v, "segment.outer", segment->outer));
    TRY(visitor_require_positive(v, "segment.token_values", segment->token_values));
    const size_t factors[3] = {(size_t)segment->outer, (size_t)segment->token_values,
                               (size_t)p->block_size * value_bytes};
    size_t end = 0;
    TRY(visitor_extent(v, "segment", factors, segment->offset_bytes, &end));
    if (end > p->block_bytes || segment->offset_bytes % value_bytes != 0) {
        return err_fail(ERR_INVALID, "%s: segment from byte %zu to %zu of a block of %zu", v->op,
                        segment->offset_bytes, end, p->block_bytes);
    }
    *out = end - segment->offset_bytes;
    return ERR_OK;
}

static enum err check_segments(const struct visitor *v, const struct op_kv_copy_tail *p) {
    if (p->segment_count < 0 || (p->segment_count > 0 && p->segments == NULL)) {
        return err_fail(ERR_INVALID, "%s: %d segments", v->op, p->segment_count);
    }
    for (int i = 0; i < p->segment_count; i++) {
        size_t bytes = 0;
        size_t begin = p->segments[i].offset_bytes;
        TRY(segment_bytes(v, p, &p->segments[i], &bytes));
        for (int j = 0; j < i; j++) {
            size_t other_bytes = 0;
            size_t other = p->segments[j].offset_bytes;
            TRY(segment_bytes(v, p, &p->segments[j], &other_bytes));
            if (begin < other + other_bytes && other < begin + bytes) {
                return err_fail(ERR_INVALID, "%s: segments %d and %d overlap", v->op, j, i);
            }
        }
    }
    return ERR_OK;
}

static enum err visit_kv_copy_tail(struct visitor *v, const struct op_kv_copy_tail *p) {
    struct device_ptr from;
    struct device_ptr to;
    TRY(pool_entry(v, "from", p->pool, p->block_bytes, p->from, &from));
    TRY(pool_entry(v, "to", p->pool, p->block_bytes, p->to, &to));
    if (p->type != DTYPE_F32 && p->type != DTYPE_F16 && p->type != DTYPE_BF16) {
        return err_fail(ERR_INVALID, "%s: type %d is not F32, F16 or BF16", v->op, (int)p->type);
    }
    TRY(visitor_require_positive(v, "block_size", p->block_size));
    if (p->tokens < 0 || p->tokens > p->block_size) {
        return err_fail(ERR_INVALID, "%s: %d tokens of a block of %d", v->op, p->tokens,
                        p->block_size);
    }
    if (p->block_bytes % dtype_block_bytes(p->type) != 0) {
        return err_fail(ERR_INVALID, "%s: block_bytes %zu is not a multiple of %zu", v->op,
                        p->block_bytes, dtype_block_bytes(p->type));
    }
    TRY(check_segments(v, p));
    for (int i = 0; i < p->segment_count; i++) {
        size_t offset = p->segments[i].offset_bytes;
        size_t bytes = 0;
        TRY(segment_bytes(v, p, &p->segments[i], &bytes));
        if (p->from != p->to && p->tokens > 0) {
            visitor_visit(v, &(struct command_range){.at = device_ptr_add(from, offset),
                                                     .bytes = bytes,
                                                     .operand = "from"});
        }
        visitor_visit(v, &(struct command_range){.at = device_ptr_add(to, offset),
                                                 .bytes = bytes,
                                                 .is_written = 1,
                                                 .operand = "to"});
    }
    return ERR_OK;
}

static enum err visit_state_copy(struct visitor *v, const struct op_state_copy *p) {
    struct device_ptr from;
    struct device_ptr to;
    TRY(pool_entry(v, "from", p->pool, p->slot_bytes, p->from, &from));
    TRY(pool_entry(v, "to", p->pool, p->slot_bytes, p->to, &to));
    visitor_visit(v,
                  &(struct command_range){.at = from, .bytes = p->slot_bytes, .operand = "from"});
    visitor_visit(v, &(struct command_range){
                         .at = to, .bytes = p->slot_bytes, .is_written = 1, .operand = "to"});
    return ERR_OK;
}

static enum err visit_state_clear(struct visitor *v, const struct op_state_clear *p) {
    struct device_ptr at;
    TRY(pool_entry(v, "slot", p->pool, p->slot_bytes, p->slot, &at));
    visitor_visit(v, &(struct command_range){
                         .at = at, .bytes = p->slot_bytes, .is_written = 1, .operand = "slot"});
    return ERR_OK;
}

/* --- dispatch ------------------------------------------------------------------------ */

enum err command_visit_ranges(const struct command *command, command_range_fn *visit,
                              void *context) {
    struct visitor v = {.op = command_name(command->kind), .visit = visit, .context = context};
    switch (command->kind) {
    case COMMAND_EMBED:
        return visit_embed(&v, &command->embed);
    case COMMAND_GATHER_ROWS:
        return visit_gather_rows(&v, &command->gather_rows);
    case COMMAND_RMS_NORM:
        return visit_rms_norm(&v, &command->rms_norm);
    case COMMAND_GATED_NORM:
        return visit_gated_norm(&v, &command->gated_norm);
    case COMMAND_MATMUL:
        return visit_matmul(&v, &command->matmul);
    case COMMAND_SWIGLU:
        return visit_swiglu(&v, &command->swiglu);
    case COMMAND_ROPE_TABLE:
        return visit_rope_table(&v, &command->rope_table);
    case COMMAND_ROPE:
        return visit_rope(&v, &command->rope);
    case COMMAND_KV_WRITE:
        return visit_kv_write(&v, &command->kv_write);
    case COMMAND_ATTENTION:
        return visit_attention(&v, &command->attention);
    case COMMAND_CONV1D:
        return visit_conv1d(&v, &command->conv1d);
    case COMMAND_SSM_SCAN:
        return visit_ssm_scan(&v, &command->ssm_scan);
    case COMMAND_KV_COPY_TAIL:
        return visit_kv_copy_tail(&v, &command->kv_copy_tail);
    case COMMAND_STATE_COPY:
        return visit_state_copy(&v, &command->state_copy);
    case COMMAND_STATE_CLEAR:
        return visit_state_clear(&v, &command->state_clear);
    case COMMAND_KIND_COUNT:
        break;
    }
    return err_fail(ERR_INVALID, "no command of kind %d", (int)command->kind);
}

struct checker {
    const char *op;
    enum err result;
};

static void check_range(void *context, const struct command_range *range) {
    struct checker *checker = context;
    size_t buffer_bytes = range->at.buffer->bytes;
    size_t offset = range->at.offset_bytes;
    if (checker->result == ERR_OK &&
        (offset > buffer_bytes || range->bytes > buffer_bytes - offset)) {
        checker->result =
            err_fail(ERR_INVALID, "%s: %s: %zu bytes at %zu lie outside a buffer of %zu",
                     checker->op, range->operand, range->bytes, offset, buffer_bytes);
    }
}

enum err command_check(const struct command *command) {
    struct checker checker = {.op = command_name(command->kind), .result = ERR_OK};
    TRY(command_visit_ranges(command, check_range, &checker));
    return checker.result;
}
