#include "gpu/reference/reference.h"

#include "base/half.h"
#include "gpu/reference/reference_op.h"
#include "gpu/transcendental.h"

#include <math.h>

/* --- transcendental.h ---------------------------------------------------------------- */

float reference_exp(float x) {
    x = x > TRANSCENDENTAL_EXP_MIN ? x : TRANSCENDENTAL_EXP_MIN;
    x = x < TRANSCENDENTAL_EXP_MAX ? x : TRANSCENDENTAL_EXP_MAX;
    float z = fmaf(x, TRANSCENDENTAL_EXP_LOG2E, TRANSCENDENTAL_EXP_MAGIC);
    float n = z - TRANSCENDENTAL_EXP_MAGIC;
    uint32_t k = half_bits_of_f32(z) - half_bits_of_f32(TRANSCENDENTAL_EXP_MAGIC);
    float r = fmaf(n, -TRANSCENDENTAL_EXP_LN2_HIGH, x);
    r = fmaf(n, -TRANSCENDENTAL_EXP_LN2_LOW, r);
    float q = TRANSCENDENTAL_EXP_E4;
    q = fmaf(q, r, TRANSCENDENTAL_EXP_E3);
    q = fmaf(q, r, TRANSCENDENTAL_EXP_E2);
    q = fmaf(q, r, TRANSCENDENTAL_EXP_E1);
    q = fmaf(q, r, TRANSCENDENTAL_EXP_E0);
    return (fmaf(r * r, q, r) + 1.0f) * half_f32_of_bits((k + 127u) << 23);
}

float reference_log1p(float u) {
    float s = u / (2.0f + u);
    float w = s * s;
    float q = TRANSCENDENTAL_LOG1P_L4;
    q = fmaf(q, w, TRANSCENDENTAL_LOG1P_L3);
    q = fmaf(q, w, TRANSCENDENTAL_LOG1P_L2);
    q = fmaf(q, w, TRANSCENDENTAL_LOG1P_L1);
    q = fmaf(q, w, TRANSCENDENTAL_LOG1P_L0);
    return fmaf(s * w, q, s + s);
}

float reference_softplus(float x) {
    return (x > 0.0f ? x : 0.0f) + reference_log1p(reference_exp(-fabsf(x)));
}

float reference_sigmoid(float x) {
    return 1.0f / (1.0f + reference_exp(-x));
}

float reference_silu(float x) {
    return x / (1.0f + reference_exp(-x));
}

/* --- shared by the families ---------------------------------------------------------- */

void *reference_op_at(const struct reference_memory *memory, struct device_ptr ptr) {
    return ptr.buffer == NULL ? NULL : memory->resolve(memory->context, ptr);
}

float *reference_op_floats(const struct reference_memory *memory, struct device_ptr ptr) {
    return reference_op_at(memory, ptr);
}

float reference_op_load(enum dtype type, const void *values, size_t idx) {
    switch (type) {
    case DTYPE_F16:
        return half_f16_to_f32(((const uint16_t *)values)[idx]);
    case DTYPE_BF16:
        return half_bf16_to_f32(((const uint16_t *)values)[idx]);
    case DTYPE_F32:
    case DTYPE_Q8_0: /* no pool has it: command_check refuses */
        break;
    }
    return ((const float *)values)[idx];
}

void reference_op_store(enum dtype type, void *values, size_t idx, float value) {
    if (type == DTYPE_F16) {
        ((uint16_t *)values)[idx] = half_f32_to_f16(value);
    } else if (type == DTYPE_BF16) {
        ((uint16_t *)values)[idx] = half_f32_to_bf16(value);
    } else {
        ((float *)values)[idx] = value;
    }
}

float reference_op_tree16(float p[16]) {
    for (int width = 8; width >= 1; width /= 2) {
        for (int i = 0; i < width; i++) {
            p[i] += p[i + width];
        }
    }
    return p[0];
}

/* --- dispatch ------------------------------------------------------------------------ */

static enum err run_rows(const struct command *command, const struct reference_memory *memory) {
    switch (command->kind) {
    case COMMAND_EMBED:
        return reference_op_embed(&command->embed, memory);
    case COMMAND_GATHER_ROWS:
        reference_op_gather_rows(&command->gather_rows, memory);
        return ERR_OK;
    case COMMAND_RMS_NORM:
        reference_op_rms_norm(&command->rms_norm, memory);
        return ERR_OK;
    case COMMAND_GATED_NORM:
        reference_op_gated_norm(&command->gated_norm, memory);
        return ERR_OK;
    case COMMAND_MATMUL:
        return reference_op_matmul(&command->matmul, memory);
    case COMMAND_SWIGLU:
        reference_op_swiglu(&command->swiglu, memory);
        return ERR_OK;
    default:
        return err_fail(ERR_INVALID, "the reference has no command of kind %d", command->kind);
    }
}

enum err reference_run(const struct command *command, const struct reference_memory *memory) {
    switch (command->kind) {
    case COMMAND_ROPE_TABLE:
        reference_op_rope_table(&command->rope_table, memory);
        return ERR_OK;
    case COMMAND_ROPE:
        reference_op_rope(&command->rope, memory);
        return ERR_OK;
    case COMMAND_KV_WRITE:
        reference_op_kv_write(&command->kv_write, memory);
        return ERR_OK;
    case COMMAND_ATTENTION:
        return reference_op_attention(&command->attention, memory);
    case COMMAND_CONV1D:
        reference_op_conv1d(&command->conv1d, memory);
        return ERR_OK;
    case COMMAND_SSM_SCAN:
        reference_op_ssm_scan(&command->ssm_scan, memory);
        return ERR_OK;
    case COMMAND_KV_COPY_TAIL:
        reference_op_kv_copy_tail(&command->kv_copy_tail, memory);
        return ERR_OK;
    case COMMAND_STATE_COPY:
        reference_op_state_copy(&command->state_copy, memory);
        return ERR_OK;
    case COMMAND_STATE_CLEAR:
        reference_op_state_clear(&command->state_clear, memory);
        return ERR_OK;
    default:
        return run_rows(command, memory);
    }
}
