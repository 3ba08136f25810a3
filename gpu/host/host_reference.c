/*
 * The plain reference as a kernel set, for the ISA name "reference": every command is one unit,
 * run on the stream's thread.
 */
#include "gpu/host/host_memory.h"
#include "gpu/host/host_weight.h"
#include "gpu/host/kernel.h"
#include "gpu/reference/reference.h"

static void *resolve(void *context, struct device_ptr ptr) {
    (void)context;
    return host_memory_at(ptr);
}

static void weight_row(void *context, const struct device_weight *weight, int row, void *to) {
    (void)context;
    host_weight_get_row((const struct host_weight *)(const void *)weight, row, to);
}

static void run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)begin;
    (void)end;
    (void)worker;
    const struct reference_memory memory = {.resolve = resolve, .weight_row = weight_row};
    *call->result = reference_run(call->command, &memory);
}

static int is_supported(void) {
    return 1;
}

static void plan(const struct command *command, int threads, struct kernel_plan *out) {
    (void)command;
    (void)threads;
    *out = (struct kernel_plan){
        .phases = {{.run = run, .units = 1, .grain = 1}},
        .phase_count = 1,
    };
}

const struct kernel_set kernel_set_reference = {
    .name = "reference",
    .is_supported = is_supported,
    .plan = plan,
};
