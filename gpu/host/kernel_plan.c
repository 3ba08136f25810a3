#include "gpu/host/kernel_plan.h"

static kernel_plan_fn *const plans[COMMAND_KIND_COUNT] = {
    [COMMAND_EMBED] = KERNEL_SYMBOL(kernel_plan_embed),
    [COMMAND_GATHER_ROWS] = KERNEL_SYMBOL(kernel_plan_gather_rows),
    [COMMAND_RMS_NORM] = KERNEL_SYMBOL(kernel_plan_rms_norm),
    [COMMAND_GATED_NORM] = KERNEL_SYMBOL(kernel_plan_gated_norm),
    [COMMAND_MATMUL] = KERNEL_SYMBOL(kernel_plan_matmul),
    [COMMAND_SWIGLU] = KERNEL_SYMBOL(kernel_plan_swiglu),
    [COMMAND_ROPE_TABLE] = KERNEL_SYMBOL(kernel_plan_rope_table),
    [COMMAND_ROPE] = KERNEL_SYMBOL(kernel_plan_rope),
    [COMMAND_KV_WRITE] = KERNEL_SYMBOL(kernel_plan_kv_write),
    [COMMAND_ATTENTION] = KERNEL_SYMBOL(kernel_plan_attention),
    [COMMAND_CONV1D] = KERNEL_SYMBOL(kernel_plan_conv1d),
    [COMMAND_SSM_SCAN] = KERNEL_SYMBOL(kernel_plan_ssm_scan),
};

void KERNEL_SYMBOL(kernel_plan_command)(const struct command *command, int threads,
                                        struct kernel_plan *out) {
    *out = (struct kernel_plan){0};
    /* Pool copies have no plan: the runtime runs them itself. */
    if (plans[command->kind] != NULL) {
        plans[command->kind](command, threads, out);
    }
}
