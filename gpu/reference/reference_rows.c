/* Embedding, row gathering, norms and feed forward: ops whose rows know nothing of each other. */
#include "gpu/backend.h"
#include "gpu/reference/reference_op.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A weight value as F32, exactly: plain types widened, Q8_0 as d * q. */
static float weight_value(enum dtype type, const uint8_t *row, size_t column) {
    if (type != DTYPE_Q8_0) {
        return reference_op_load(type, row, column);
    }
    const uint8_t *block = row + column / 32 * 34;
    uint16_t scale;
    memcpy(&scale, block, sizeof scale);
    int8_t quant = (int8_t)block[2 + column % 32];
    return half_f16_to_f32(scale) * (float)quant;
}

enum err reference_op_embed(const struct op_embed *p, const struct reference_memory *memory) {
    size_t columns = (size_t)p->weight->columns;
    float *out = reference_op_floats(memory, p->out);
    uint8_t *weight_row CLEANUP(object_free) = malloc(dtype_bytes(p->weight->type, columns));
    if (weight_row == NULL) {
        return err_fail(ERR_NOMEM, "reference embed: a row of %zu columns", columns);
    }
    for (int row = 0; row < p->batch->rows; row++) {
        memory->weight_row(memory->context, p->weight, p->batch->layout.tokens[row], weight_row);
        for (size_t c = 0; c < columns; c++) {
            out[(size_t)row * columns + c] =
                weight_value(p->weight->type, weight_row, c) * p->scale;
        }
    }
    return ERR_OK;
}

void reference_op_gather_rows(const struct op_gather_rows *p,
                              const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    size_t columns = (size_t)p->columns;
    for (int i = 0; i < layout->output_count; i++) {
        const float *in = reference_op_floats(memory, p->in);
        float *out = reference_op_floats(memory, p->out);
        memcpy(out + (size_t)i * columns, in + (size_t)layout->output_rows[i] * columns,
               columns * sizeof(float));
    }
}

/* 1 / sqrt(mean of squares + eps), in the order of op_rms_norm. */
static float inverse_root_mean_square(const float *x, int columns, float eps) {
    float p[16] = {0};
    for (int c = 0; c < columns; c++) {
        p[c % 16] = fmaf(x[c], x[c], p[c % 16]);
    }
    float sum = reference_op_tree16(p);
    return 1.0f / sqrtf(sum / (float)columns + eps);
}

void reference_op_rms_norm(const struct op_rms_norm *p, const struct reference_memory *memory) {
    for (int row = 0; row < p->rows; row++) {
        const float *in = reference_op_floats(memory, p->in) + (size_t)row * p->in_stride;
        const float *weight = reference_op_floats(memory, p->weight);
        float *out = reference_op_floats(memory, p->out) + (size_t)row * p->out_stride;
        float r = inverse_root_mean_square(in, p->columns, p->eps);
        for (int c = 0; c < p->columns; c++) {
            out[c] = (in[c] * r) * weight[c];
        }
    }
}

void reference_op_gated_norm(const struct op_gated_norm *p, const struct reference_memory *memory) {
    const float *weight = reference_op_floats(memory, p->weight);
    int group_columns = p->columns / p->groups;
    for (int row = 0; row < p->rows; row++) {
        const float *in = reference_op_floats(memory, p->in) + (size_t)row * p->in_stride;
        const float *gate = reference_op_floats(memory, p->gate) + (size_t)row * p->gate_stride;
        float *out = reference_op_floats(memory, p->out) + (size_t)row * p->out_stride;
        for (int c = 0; c < p->columns; c++) {
            out[c] = in[c] * reference_silu(gate[c]);
        }
        for (int begin = 0; weight != NULL && begin < p->columns; begin += group_columns) {
            float r = inverse_root_mean_square(out + begin, group_columns, p->eps);
            for (int c = begin; c < begin + group_columns; c++) {
                out[c] = (out[c] * r) * weight[c];
            }
        }
    }
}

void reference_op_swiglu(const struct op_swiglu *p, const struct reference_memory *memory) {
    for (int row = 0; row < p->rows; row++) {
        const float *gate = reference_op_floats(memory, p->gate) + (size_t)row * p->gate_stride;
        const float *up = reference_op_floats(memory, p->up) + (size_t)row * p->up_stride;
        float *out = reference_op_floats(memory, p->out) + (size_t)row * p->out_stride;
        for (int c = 0; c < p->columns; c++) {
            out[c] = reference_silu(gate[c]) * up[c];
        }
    }
}
