#include "gpu/cost.h"

#include "gpu/backend.h"

static struct cost cost_of_embed(const struct op_embed *op) {
    size_t row_bytes = dtype_bytes(op->weight->type, (size_t)op->weight->columns);
    return (struct cost){.bytes = (double)op->batch->rows * (double)row_bytes};
}

static struct cost cost_of_matmul(const struct op_matmul *op) {
    struct cost cost = {0};
    for (int i = 0; i < op->product_count && op->rows > 0; i++) {
        const struct device_weight *weight = op->products[i].weight;
        double ops = 2.0 * op->rows * weight->rows * weight->columns;
        cost.bytes +=
            (double)dtype_bytes(weight->type, (size_t)weight->columns) * (double)weight->rows;
        *(weight->type == DTYPE_Q8_0 ? &cost.dot_ops : &cost.float_ops) += ops;
    }
    return cost;
}

/* K and V of one token. */
static double token_bytes(const struct op_kv_view *kv) {
    size_t values = (size_t)kv->kv_heads * (size_t)(kv->key_size + kv->value_size);
    return (double)dtype_bytes(kv->type, values);
}

static struct cost cost_of_kv_write(const struct op_kv_write *op) {
    return (struct cost){.bytes = (double)op->batch->rows * token_bytes(&op->kv)};
}

/* Every row meets the tokens up to its own; a sequence's KV is fetched once for all its rows. */
static struct cost cost_of_attention(const struct op_attention *op) {
    struct cost cost = {0};
    const struct batch_layout *layout = &op->batch->layout;
    double pair_ops = 2.0 * op->heads * (op->kv.key_size + op->kv.value_size);
    for (int i = 0; i < layout->sequence_count; i++) {
        double rows = layout->sequences[i].rows;
        double position = layout->sequences[i].position;
        if (rows > 0) {
            cost.bytes += (position + rows) * token_bytes(&op->kv);
            cost.float_ops += (rows * position + rows * (rows + 1) / 2) * pair_ops;
        }
    }
    return cost;
}

/* A segment of VALUES is read and written once for each sequence, and written for each mark. */
static double state_bytes(const struct batch_layout *layout, double values) {
    double bytes = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        if (layout->sequences[i].rows > 0) {
            bytes += values * sizeof(float) * (2.0 + layout->sequences[i].mark_count);
        }
    }
    return bytes;
}

static struct cost cost_of_conv1d(const struct op_conv1d *op) {
    double values = (double)op->channels * (op->taps - 1);
    return (struct cost){
        .bytes = state_bytes(&op->batch->layout, values),
        .float_ops = 2.0 * op->batch->rows * op->channels * op->taps,
    };
}

/* A value of the state: a product for its input, two fused operations. */
static struct cost cost_of_ssm_scan(const struct op_ssm_scan *op) {
    double values = (double)op->heads * op->head_size * op->state_size;
    return (struct cost){
        .bytes = state_bytes(&op->batch->layout, values),
        .float_ops = 5.0 * op->batch->rows * values,
    };
}

struct cost cost_of(const struct command *command) {
    switch (command->kind) {
    case COMMAND_EMBED:
        return cost_of_embed(&command->embed);
    case COMMAND_MATMUL:
        return cost_of_matmul(&command->matmul);
    case COMMAND_KV_WRITE:
        return cost_of_kv_write(&command->kv_write);
    case COMMAND_ATTENTION:
        return cost_of_attention(&command->attention);
    case COMMAND_CONV1D:
        return cost_of_conv1d(&command->conv1d);
    case COMMAND_SSM_SCAN:
        return cost_of_ssm_scan(&command->ssm_scan);
    case COMMAND_STATE_COPY:
        return (struct cost){.bytes = 2.0 * (double)command->state_copy.slot_bytes};
    case COMMAND_STATE_CLEAR:
        return (struct cost){.bytes = (double)command->state_clear.slot_bytes};
    case COMMAND_KV_COPY_TAIL:
        return (struct cost){.bytes = 2.0 * (double)command->kv_copy_tail.block_bytes};
    case COMMAND_GATHER_ROWS:
    case COMMAND_RMS_NORM:
    case COMMAND_GATED_NORM:
    case COMMAND_SWIGLU:
    case COMMAND_ROPE_TABLE:
    case COMMAND_ROPE:
    case COMMAND_KIND_COUNT:
        break;
    }
    return (struct cost){0};
}
