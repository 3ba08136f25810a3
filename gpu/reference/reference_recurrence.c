/* Convolution and recurrence: one step a token, the state written back after each. */
#include "gpu/backend.h"
#include "gpu/reference/reference_op.h"

#include <math.h>
#include <string.h>

static float *state_of_slot(const struct op_state_view *state, int slot,
                            const struct reference_memory *memory) {
    size_t offset = (size_t)slot * state->slot_bytes + state->offset_bytes;
    return reference_op_floats(memory, device_ptr_at(state->pool, offset));
}

/* Copies the state, VALUES values, to the slot of a mark after ROW, if there is one. */
static void copy_to_mark(const struct op_state_view *state, const struct batch_sequence *sequence,
                         int row, size_t values, const struct reference_memory *memory) {
    const float *from = state_of_slot(state, sequence->state_slot, memory);
    for (int i = 0; i < sequence->mark_count; i++) {
        if (sequence->marks[i].row == row) {
            memcpy(state_of_slot(state, sequence->marks[i].slot, memory), from,
                   values * sizeof(float));
        }
    }
}

/* --- convolution --------------------------------------------------------------------- */

static void convolve_channel(const struct op_conv1d *p, const struct reference_memory *memory,
                             float *state, const float *x, size_t c, float *out) {
    const float *weight = reference_op_floats(memory, p->weight);
    const float *bias = reference_op_floats(memory, p->bias);
    size_t channels = (size_t)p->channels;
    size_t taps = (size_t)p->taps;
    float acc = bias != NULL ? bias[c] : 0.0f;
    for (size_t j = 0; j < taps; j++) {
        float input = j < taps - 1 ? state[j * channels + c] : x[c];
        acc = fmaf(weight[c * taps + j], input, acc);
    }
    out[c] = reference_silu(acc);
    for (size_t j = 0; j < taps - 1; j++) {
        state[j * channels + c] = j < taps - 2 ? state[(j + 1) * channels + c] : x[c];
    }
}

void reference_op_conv1d(const struct op_conv1d *p, const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    size_t values = (size_t)(p->taps - 1) * (size_t)p->channels;
    size_t row = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        for (int t = 0; t < sequence->rows; t++, row++) {
            const float *in = reference_op_floats(memory, p->in) + row * p->in_stride;
            float *out = reference_op_floats(memory, p->out) + row * p->out_stride;
            float *state = state_of_slot(&p->state, sequence->state_slot, memory);
            for (size_t c = 0; c < (size_t)p->channels; c++) {
                convolve_channel(p, memory, state, in, c, out);
            }
            copy_to_mark(&p->state, sequence, t, values, memory);
        }
    }
}

/* --- recurrence ---------------------------------------------------------------------- */

/* One head's inputs of one token. */
struct step {
    const float *x; /* [head_size] */
    const float *b; /* [state_size] */
    const float *c;
    float dt;
    float decay; /* f of op_ssm_scan */
    float d;
};

static void step_value(const struct op_ssm_scan *p, const struct step *step, float *state,
                       int value, float *out) {
    float y[4] = {0};
    float u = step->dt * step->x[value];
    for (int n = 0; n < p->state_size; n++) {
        float *s = state + (size_t)n * (size_t)p->head_size + value;
        *s = fmaf(*s, step->decay, step->b[n] * u);
        y[n % 4] = fmaf(step->c[n], *s, y[n % 4]);
    }
    out[value] = fmaf(step->d, step->x[value], (y[0] + y[1]) + (y[2] + y[3]));
}

static void step_head(const struct op_ssm_scan *p, const struct reference_memory *memory,
                      size_t row, int head, float *state) {
    int group = head / (p->heads / p->groups);
    size_t state_size = (size_t)p->state_size;
    size_t head_size = (size_t)p->head_size;
    float dt_in = reference_op_floats(memory, p->dt)[row * p->dt_stride + (size_t)head];
    float dt = reference_softplus(dt_in + reference_op_floats(memory, p->dt_bias)[head]);
    struct step step = {
        .x = reference_op_floats(memory, p->x) + row * p->x_stride + (size_t)head * head_size,
        .b = reference_op_floats(memory, p->b) + row * p->b_stride + (size_t)group * state_size,
        .c = reference_op_floats(memory, p->c) + row * p->c_stride + (size_t)group * state_size,
        .dt = dt,
        .decay = reference_exp(dt * reference_op_floats(memory, p->a)[head]),
        .d = reference_op_floats(memory, p->d)[head],
    };
    float *out =
        reference_op_floats(memory, p->out) + row * p->out_stride + (size_t)head * head_size;
    for (int value = 0; value < p->head_size; value++) {
        step_value(p, &step, state + (size_t)head * state_size * head_size, value, out);
    }
}

void reference_op_ssm_scan(const struct op_ssm_scan *p, const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    size_t values = (size_t)p->heads * (size_t)p->state_size * (size_t)p->head_size;
    size_t row = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        for (int t = 0; t < sequence->rows; t++, row++) {
            float *state = state_of_slot(&p->state, sequence->state_slot, memory);
            for (int head = 0; head < p->heads; head++) {
                step_head(p, memory, row, head, state);
            }
            copy_to_mark(&p->state, sequence, t, values, memory);
        }
    }
}
