#include "gpu/op.h"

#include "gpu/backend.h"

/* What every op comes down to. A command without rows is nothing, whatever else it says. */
static enum err enqueue(struct device_stream *stream, const struct command *command, int rows) {
    if (rows == 0) {
        return ERR_OK;
    }
    int is_pool_copy = command->kind == COMMAND_KV_COPY_TAIL ||
                       command->kind == COMMAND_STATE_COPY || command->kind == COMMAND_STATE_CLEAR;
    if (stream->kind == DEVICE_STREAM_COPY && !is_pool_copy) {
        return err_fail(ERR_INVALID, "%s: a copy stream runs copies alone",
                        command_name(command->kind));
    }
    TRY(command_check(command));
    return stream->device->ops->enqueue(stream, command);
}

/* The rows of a batch that an op may lack: command_check names the missing batch. */
static int rows_of(const struct batch *batch) {
    return batch == NULL ? -1 : batch->rows;
}

enum err op_embed(struct device_stream *stream, const struct op_embed *params) {
    const struct command command = {.kind = COMMAND_EMBED, .embed = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

enum err op_gather_rows(struct device_stream *stream, const struct op_gather_rows *params) {
    const struct command command = {.kind = COMMAND_GATHER_ROWS, .gather_rows = *params};
    return enqueue(stream, &command,
                   params->batch == NULL ? -1 : params->batch->layout.output_count);
}

enum err op_rms_norm(struct device_stream *stream, const struct op_rms_norm *params) {
    const struct command command = {.kind = COMMAND_RMS_NORM, .rms_norm = *params};
    return enqueue(stream, &command, params->rows);
}

enum err op_gated_norm(struct device_stream *stream, const struct op_gated_norm *params) {
    const struct command command = {.kind = COMMAND_GATED_NORM, .gated_norm = *params};
    return enqueue(stream, &command, params->rows);
}

enum err op_matmul(struct device_stream *stream, const struct op_matmul *params) {
    const struct command command = {.kind = COMMAND_MATMUL, .matmul = *params};
    return enqueue(stream, &command, params->rows);
}

enum err op_swiglu(struct device_stream *stream, const struct op_swiglu *params) {
    const struct command command = {.kind = COMMAND_SWIGLU, .swiglu = *params};
    return enqueue(stream, &command, params->rows);
}

enum err op_rope_table(struct device_stream *stream, const struct op_rope_table *params) {
    const struct command command = {.kind = COMMAND_ROPE_TABLE, .rope_table = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

enum err op_rope(struct device_stream *stream, const struct op_rope *params) {
    const struct command command = {.kind = COMMAND_ROPE, .rope = *params};
    return enqueue(stream, &command, params->rows);
}

enum err op_kv_write(struct device_stream *stream, const struct op_kv_write *params) {
    const struct command command = {.kind = COMMAND_KV_WRITE, .kv_write = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

enum err op_attention(struct device_stream *stream, const struct op_attention *params) {
    const struct command command = {.kind = COMMAND_ATTENTION, .attention = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

enum err op_conv1d(struct device_stream *stream, const struct op_conv1d *params) {
    const struct command command = {.kind = COMMAND_CONV1D, .conv1d = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

enum err op_ssm_scan(struct device_stream *stream, const struct op_ssm_scan *params) {
    const struct command command = {.kind = COMMAND_SSM_SCAN, .ssm_scan = *params};
    return enqueue(stream, &command, rows_of(params->batch));
}

/* Pool copies have no rows: 1 stands for the one thing they do. */
enum err op_kv_copy_tail(struct device_stream *stream, const struct op_kv_copy_tail *params) {
    const struct command command = {.kind = COMMAND_KV_COPY_TAIL, .kv_copy_tail = *params};
    return enqueue(stream, &command, 1);
}

enum err op_state_copy(struct device_stream *stream, const struct op_state_copy *params) {
    const struct command command = {.kind = COMMAND_STATE_COPY, .state_copy = *params};
    return enqueue(stream, &command, 1);
}

enum err op_state_clear(struct device_stream *stream, const struct op_state_clear *params) {
    const struct command command = {.kind = COMMAND_STATE_CLEAR, .state_clear = *params};
    return enqueue(stream, &command, 1);
}
