/*
 * Convolution and recurrence: several sequences in slots of a pool, marks at every place, sizes
 * that fit no vector. Slots that no sequence has written are NaN.
 */
#include "tests/conformance/conformance.h"

#include <math.h>
#include <stdio.h>

struct recurrence_shape {
    struct conformance_batch_shape batch;
    int channels;
    int taps;
    int has_bias;
    int heads;
    int groups;
    int head_size;
    int state_size;
    size_t padding;
};

/* A pool whose slots hold the segment between others; running slots are filled. */
static struct op_state_view make_view(struct conformance_side *side,
                                      const struct conformance_batch *batch, size_t values) {
    uint8_t *image;
    struct op_state_view view = {.slot_bytes = (values + 12) * sizeof(float),
                                 .offset_bytes = 5 * sizeof(float)};
    struct device_ptr pool = conformance_nan_buffer(
        side, "pool", DTYPE_F32, (size_t)(batch->slot_count + 2) * view.slot_bytes, &image);
    view.pool = pool.buffer;
    image -= pool.offset_bytes;
    for (int i = 0; i < batch->layout->sequence_count; i++) {
        size_t slot = (size_t)batch->layout->sequences[i].state_slot;
        for (size_t j = 0; j < values; j++) {
            conformance_store(DTYPE_F32, image + slot * view.slot_bytes + view.offset_bytes, j,
                              conformance_value(side));
        }
    }
    return view;
}

static struct device_ptr vector(struct conformance_side *side, const char *name, int values) {
    return conformance_input(side, name, 1, values, (size_t)values);
}

static void build_conv1d(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct recurrence_shape *shape = opaque;
    struct conformance_batch batch;
    conformance_make_batch(side, &shape->batch, &batch);
    size_t stride = (size_t)shape->channels + shape->padding;
    out->kind = COMMAND_CONV1D;
    out->conv1d = (struct op_conv1d){
        .batch = batch.batch,
        .state = make_view(side, &batch, (size_t)((shape->taps - 1) * shape->channels)),
        .channels = shape->channels,
        .taps = shape->taps,
        .weight = vector(side, "weight", shape->channels * shape->taps),
        .in = conformance_input(side, "in", batch.rows, shape->channels, stride),
        .in_stride = stride,
        .out = conformance_output(side, "out", batch.rows, shape->channels, stride + 1),
        .out_stride = stride + 1,
    };
    if (shape->has_bias) {
        out->conv1d.bias = vector(side, "bias", shape->channels);
    }
}

/* Negative values of magnitude up to 16, as a layer's A has. */
static struct device_ptr make_decay(struct conformance_side *side, int heads) {
    uint8_t *image;
    struct device_ptr ptr =
        conformance_buffer(side, "a", DTYPE_F32, (size_t)heads * sizeof(float), &image);
    for (int i = 0; i < heads; i++) {
        float value = -8.0f * fminf(fabsf(conformance_value(side)), 2.0f);
        conformance_store(DTYPE_F32, image, (size_t)i, value);
    }
    return ptr;
}

static void build_ssm_scan(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct recurrence_shape *shape = opaque;
    struct conformance_batch batch;
    conformance_make_batch(side, &shape->batch, &batch);
    int columns = shape->heads * shape->head_size;
    int group_columns = shape->groups * shape->state_size;
    size_t stride = (size_t)columns + shape->padding;
    size_t group_stride = (size_t)group_columns + shape->padding;
    size_t dt_stride = (size_t)shape->heads + shape->padding;
    out->kind = COMMAND_SSM_SCAN;
    out->ssm_scan = (struct op_ssm_scan){
        .batch = batch.batch,
        .state = make_view(side, &batch, (size_t)columns * (size_t)shape->state_size),
        .heads = shape->heads,
        .head_size = shape->head_size,
        .state_size = shape->state_size,
        .groups = shape->groups,
        .x = conformance_input(side, "x", batch.rows, columns, stride),
        .x_stride = stride,
        .b = conformance_input(side, "b", batch.rows, group_columns, group_stride),
        .b_stride = group_stride,
        .c = conformance_input(side, "c", batch.rows, group_columns, group_stride + 1),
        .c_stride = group_stride + 1,
        .dt = conformance_input(side, "dt", batch.rows, shape->heads, dt_stride),
        .dt_stride = dt_stride,
        .dt_bias = vector(side, "dt_bias", shape->heads),
        .a = make_decay(side, shape->heads),
        .d = vector(side, "d", shape->heads),
        .out = conformance_output(side, "out", batch.rows, columns, stride + 2),
        .out_stride = stride + 2,
    };
}

static void run(struct conformance *suite, conformance_build_fn *build,
                const struct recurrence_shape *shape, const char *text) {
    int fill = conformance_choose(suite, 0, CONFORMANCE_FILL_COUNT - 1);
    for (int i = 0; i < 2; i++, fill++) {
        conformance_run(suite, &(struct conformance_case){
                                   .build = build,
                                   .shape = shape,
                                   .fill = (enum conformance_fill)(fill % CONFORMANCE_FILL_COUNT),
                                   .text = text});
    }
}

static void conv1d_cases(struct conformance *suite, struct recurrence_shape *shape,
                         const char *pattern) {
    static const int channels[] = {1, 7, 16, 31, 33, 64, 130};
    char text[200];
    for (shape->taps = 2; shape->taps <= 8; shape->taps++) {
        shape->channels = channels[conformance_choose(suite, 0, (int)ARRAY_LEN(channels) - 1)];
        shape->has_bias = conformance_choose(suite, 0, 1);
        shape->padding = (size_t)conformance_choose(suite, 0, 1) * 3;
        shape->batch.marks = (enum conformance_marks)(shape->taps % (CONFORMANCE_MARKS_SOME + 1));
        snprintf(text, sizeof text, "%s, marks %d; channels %d, taps %d, bias %d, padding %zu",
                 pattern, (int)shape->batch.marks, shape->channels, shape->taps, shape->has_bias,
                 shape->padding);
        run(suite, build_conv1d, shape, text);
    }
}

static void ssm_scan_cases(struct conformance *suite, struct recurrence_shape *shape,
                           const char *pattern) {
    static const int head_sizes[] = {1, 8, 16, 17, 32, 40, 64};
    static const int state_sizes[] = {1, 3, 4, 16, 37, 64, 128};
    char text[200];
    for (size_t i = 0; i < ARRAY_LEN(head_sizes); i++) {
        shape->head_size = head_sizes[i];
        shape->state_size =
            state_sizes[conformance_choose(suite, 0, (int)ARRAY_LEN(state_sizes) - 1)];
        shape->groups = conformance_choose(suite, 1, 3);
        shape->heads = shape->groups * conformance_choose(suite, 1, 3);
        shape->padding = (size_t)conformance_choose(suite, 0, 1) * 3;
        shape->batch.marks = (enum conformance_marks)(i % (CONFORMANCE_MARKS_SOME + 1));
        snprintf(text, sizeof text,
                 "%s, marks %d; heads %d of %d, groups %d, state %d, padding %zu", pattern,
                 (int)shape->batch.marks, shape->heads, shape->head_size, shape->groups,
                 shape->state_size, shape->padding);
        run(suite, build_ssm_scan, shape, text);
    }
}

void conformance_cases_recurrence(struct conformance *suite) {
    const char *pattern;
    struct recurrence_shape shape = {.batch = {.vocabulary = 1, .has_state = 1}};
    for (int i = 0; conformance_batch_pattern(i, &shape.batch, &pattern); i++) {
        conv1d_cases(suite, &shape, pattern);
        ssm_scan_cases(suite, &shape, pattern);
    }
}
