/*
 * Causal depthwise convolution and silu. Lanes are channels; a unit is a run of
 * 16 channels of a sequence, walked row by row with the last inputs in registers.
 */
#include "gpu/host/kernel_transcendental.h"

enum { TAPS_MAX = 8 };

struct conv_slice {
    const struct op_conv1d *op;
    const struct batch_sequence *sequence;
    int first_row;
    int channel;
    int lanes;
};

KERNEL_INLINE float *conv_state(const struct conv_slice *slice, int slot) {
    const struct op_state_view *view = &slice->op->state;
    size_t offset = (size_t)slot * view->slot_bytes + view->offset_bytes;
    return (float *)host_memory_at(device_ptr_at(view->pool, offset)) + slice->channel;
}

/* The inputs after the window's oldest, which a slot keeps. */
KERNEL_INLINE void store_window(const struct conv_slice *slice, int slot, const struct simd *window,
                                int taps) {
    float *to = conv_state(slice, slot);
    for (int j = 0; j < taps - 1; j++) {
        simd_store_part(to + (size_t)j * (size_t)slice->op->channels, window[j], slice->lanes);
    }
}

/* w[j] lane i = weight[i][j] */
KERNEL_INLINE void load_taps(const float *weight, int taps, int lanes, struct simd w[TAPS_MAX]) {
    if (taps == 4 && lanes == SIMD_LANES) {
        simd_load_transposed4(weight, w);
        return;
    }
    for (int j = 0; j < taps; j++) {
        float lane[SIMD_LANES] = {0};
        for (int i = 0; i < lanes; i++) {
            lane[i] = weight[i * taps + j];
        }
        w[j] = simd_load(lane);
    }
}

KERNEL_INLINE void conv_rows(const struct conv_slice *slice, int taps, int lanes) {
    const struct op_conv1d *op = slice->op;
    const struct batch_sequence *sequence = slice->sequence;
    const float *weight =
        (const float *)host_memory_at(op->weight) + (size_t)slice->channel * (size_t)taps;
    const float *bias = host_memory_at(op->bias);
    struct simd start = bias != NULL ? simd_load_part(bias + slice->channel, lanes) : simd_zero();
    struct simd w[TAPS_MAX];
    struct simd window[TAPS_MAX]; /* inputs t - taps + 1 to t - 1 of the row t to come */
    const float *state = conv_state(slice, sequence->state_slot);
    load_taps(weight, taps, lanes, w);
    for (int j = 0; j < taps - 1; j++) {
        window[j] = simd_load_part(state + (size_t)j * (size_t)op->channels, lanes);
    }
    const float *in =
        kernel_plan_row(op->in, op->in_stride, (size_t)slice->first_row) + slice->channel;
    float *out =
        kernel_plan_row(op->out, op->out_stride, (size_t)slice->first_row) + slice->channel;
    int mark = 0;
    for (int t = 0; t < sequence->rows; t++) {
        window[taps - 1] = simd_load_part(in + (size_t)t * op->in_stride, lanes);
        struct simd sum = start;
        for (int j = 0; j < taps; j++) {
            sum = simd_fma(w[j], window[j], sum);
        }
        simd_store_part(out + (size_t)t * op->out_stride, kernel_transcendental_silu(sum), lanes);
        for (int j = 0; j < taps - 1; j++) {
            window[j] = window[j + 1];
        }
        if (mark < sequence->mark_count && sequence->marks[mark].row == t) {
            store_window(slice, sequence->marks[mark].slot, window, taps);
            mark++;
        }
    }
    store_window(slice, sequence->state_slot, window, taps);
}

static void conv1d_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    (void)worker;
    const struct op_conv1d *op = &call->command->conv1d;
    const struct batch_layout *layout = &op->batch->layout;
    size_t runs = ((size_t)op->channels + SIMD_LANES - 1) / SIMD_LANES;
    for (size_t unit = begin; unit < end; unit++) {
        int s = (int)(unit / runs);
        int channel = (int)(unit % runs) * SIMD_LANES;
        struct conv_slice slice = {
            .op = op,
            .sequence = &layout->sequences[s],
            .first_row = kernel_plan_first_row(layout, s),
            .channel = channel,
            .lanes = kernel_plan_lanes(channel, op->channels),
        };
        if (slice.sequence->rows == 0) {
            continue;
        }
        if (op->taps == 4 && slice.lanes == SIMD_LANES) {
            conv_rows(&slice, 4, SIMD_LANES);
        } else {
            conv_rows(&slice, op->taps, slice.lanes);
        }
    }
}

void KERNEL_SYMBOL(kernel_plan_conv1d)(const struct command *command, int threads,
                                       struct kernel_plan *out) {
    const struct op_conv1d *op = &command->conv1d;
    size_t sequences = (size_t)op->batch->layout.sequence_count;
    size_t runs = ((size_t)op->channels + SIMD_LANES - 1) / SIMD_LANES;
    size_t rows = (size_t)op->batch->rows;
    size_t cost = 150 + 60 * rows / (sequences + 1);
    out->phase_count = 1;
    out->phases[0] = kernel_plan_phase(conv1d_run, sequences * runs, cost, threads);
}
