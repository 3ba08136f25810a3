/*
 * An op as it travels: its kind and a copy of its params. What op.h enqueues,
 * what a backend's stream holds, and what the reference runs. Internal to gpu/
 * and to the conformance tests.
 */
#ifndef TERN_GPU_COMMAND_H
#define TERN_GPU_COMMAND_H

#include "gpu/op.h"

enum command_kind {
    COMMAND_EMBED,
    COMMAND_GATHER_ROWS,
    COMMAND_RMS_NORM,
    COMMAND_GATED_NORM,
    COMMAND_MATMUL,
    COMMAND_SWIGLU,
    COMMAND_ROPE_TABLE,
    COMMAND_ROPE,
    COMMAND_KV_WRITE,
    COMMAND_ATTENTION,
    COMMAND_CONV1D,
    COMMAND_SSM_SCAN,
    COMMAND_KV_COPY_TAIL,
    COMMAND_STATE_COPY,
    COMMAND_STATE_CLEAR,
    COMMAND_KIND_COUNT,
};

struct command {
    enum command_kind kind;
    union {
        struct op_embed embed;
        struct op_gather_rows gather_rows;
        struct op_rms_norm rms_norm;
        struct op_gated_norm gated_norm;
        struct op_matmul matmul;
        struct op_swiglu swiglu;
        struct op_rope_table rope_table;
        struct op_rope rope;
        struct op_kv_write kv_write;
        struct op_attention attention;
        struct op_conv1d conv1d;
        struct op_ssm_scan ssm_scan;
        struct op_kv_copy_tail kv_copy_tail;
        struct op_state_copy state_copy;
        struct op_state_clear state_clear;
    };
};

const char *command_name(enum command_kind kind); /* "rms_norm" */

/* A byte range that a command touches. */
struct command_range {
    struct device_ptr at;
    size_t bytes;
    int is_written;
    const char *operand; /* "in", "out", "state", ... */
};

typedef void command_range_fn(void *context, const struct command_range *range);

/*
 * Calls VISIT for every range that COMMAND reads or writes, pool blocks and slots one by one.
 * ERR_INVALID if the params contradict themselves (sizes, strides, views, batch).
 */
MUST_USE enum err command_visit_ranges(const struct command *command, command_range_fn *visit,
                                       void *context);

/* command_visit_ranges, with each range checked against its buffer: ERR_INVALID names the operand.
 */
MUST_USE enum err command_check(const struct command *command);

#endif
