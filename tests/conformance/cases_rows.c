/* Embedding, gathering, norms, feed forward, rotary positions: row by row, no state. */
#include "tests/conformance/conformance.h"

#include <stdio.h>
#include <string.h>

struct rows_shape {
    int rows;
    int columns;
    int groups;
    int heads;
    size_t padding; /* of every stride */
    int in_place;   /* out is the first input; 2: the second */
    int has_weight;
    enum op_rope_style style;
    enum dtype type;
    struct conformance_batch_shape batch;
};

static void run(struct conformance *suite, conformance_build_fn *build,
                const struct rows_shape *shape) {
    char text[160];
    snprintf(text, sizeof text,
             "rows %d, columns %d, groups %d, heads %d, padding %zu, in place %d, weight %d, "
             "style %d, %s",
             shape->rows, shape->columns, shape->groups, shape->heads, shape->padding,
             shape->in_place, shape->has_weight, (int)shape->style, dtype_name(shape->type));
    int fill = conformance_choose(suite, 0, CONFORMANCE_FILL_COUNT - 1);
    for (int i = 0; i < 3; i++, fill++) {
        conformance_run(suite, &(struct conformance_case){
                                   .build = build,
                                   .shape = shape,
                                   .fill = (enum conformance_fill)(fill % CONFORMANCE_FILL_COUNT),
                                   .text = text});
    }
}

static struct device_ptr vector(struct conformance_side *side, const char *name, int values) {
    return conformance_input(side, name, 1, values, (size_t)values);
}

static void build_rms_norm(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct rows_shape *shape = opaque;
    size_t stride = (size_t)shape->columns + shape->padding;
    struct device_ptr in = conformance_input(side, "in", shape->rows, shape->columns, stride);
    out->kind = COMMAND_RMS_NORM;
    out->rms_norm = (struct op_rms_norm){
        .rows = shape->rows,
        .columns = shape->columns,
        .in = in,
        .in_stride = stride,
        .weight = vector(side, "weight", shape->columns),
        .eps = 1e-5f,
        .out = in,
        .out_stride = stride,
    };
    if (!shape->in_place) {
        out->rms_norm.out_stride = stride + 3;
        out->rms_norm.out =
            conformance_output(side, "out", shape->rows, shape->columns, stride + 3);
    }
}

static void build_gated_norm(struct conformance_side *side, const void *opaque,
                             struct command *out) {
    const struct rows_shape *shape = opaque;
    size_t stride = (size_t)shape->columns + shape->padding;
    struct device_ptr in = conformance_input(side, "in", shape->rows, shape->columns, stride);
    out->kind = COMMAND_GATED_NORM;
    out->gated_norm = (struct op_gated_norm){
        .rows = shape->rows,
        .columns = shape->columns,
        .groups = shape->groups,
        .in = in,
        .in_stride = stride,
        .gate = conformance_input(side, "gate", shape->rows, shape->columns, stride + 1),
        .gate_stride = stride + 1,
        .eps = 1e-6f,
        .out = in,
        .out_stride = stride,
    };
    if (shape->has_weight) {
        out->gated_norm.weight = vector(side, "weight", shape->columns);
    }
    if (!shape->in_place) {
        out->gated_norm.out = conformance_output(side, "out", shape->rows, shape->columns, stride);
    }
}

static void build_swiglu(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct rows_shape *shape = opaque;
    size_t stride = (size_t)shape->columns + shape->padding;
    struct device_ptr gate = conformance_input(side, "gate", shape->rows, shape->columns, stride);
    struct device_ptr up = conformance_input(side, "up", shape->rows, shape->columns, stride + 2);
    struct op_swiglu *p = &out->swiglu;
    out->kind = COMMAND_SWIGLU;
    *p = (struct op_swiglu){.rows = shape->rows,
                            .columns = shape->columns,
                            .gate = gate,
                            .gate_stride = stride,
                            .up = up,
                            .up_stride = stride + 2,
                            .out = shape->in_place == 1 ? gate : up,
                            .out_stride = shape->in_place == 1 ? stride : stride + 2};
    if (!shape->in_place) {
        p->out_stride = stride + 5;
        p->out = conformance_output(side, "out", shape->rows, shape->columns, stride + 5);
    }
}

static void build_rope(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct rows_shape *shape = opaque;
    int pairs = shape->columns / 2 - shape->groups; /* groups: pairs that stay as they are */
    int columns = shape->heads * shape->columns;
    size_t stride = (size_t)columns + shape->padding;
    out->kind = COMMAND_ROPE;
    out->rope = (struct op_rope){
        .rows = shape->rows,
        .heads = shape->heads,
        .head_size = shape->columns,
        .pairs = pairs,
        .style = shape->style,
        .table = conformance_input(side, "table", shape->rows, 2 * pairs, 2 * (size_t)pairs),
        .x = conformance_input(side, "x", shape->rows, columns, stride),
        .x_stride = stride,
    };
}

static void build_embed(struct conformance_side *side, const void *opaque, struct command *out) {
    const struct rows_shape *shape = opaque;
    struct conformance_batch batch;
    conformance_make_batch(side, &shape->batch, &batch);
    out->kind = COMMAND_EMBED;
    out->embed = (struct op_embed){
        .batch = batch.batch,
        .weight = conformance_weight(side, shape->type, shape->batch.vocabulary, shape->columns),
        .scale = 12.0f,
        .out = conformance_output(side, "out", batch.rows, shape->columns, (size_t)shape->columns),
    };
}

static void build_gather_rows(struct conformance_side *side, const void *opaque,
                              struct command *out) {
    const struct rows_shape *shape = opaque;
    struct conformance_batch batch;
    size_t columns = (size_t)shape->columns;
    conformance_make_batch(side, &shape->batch, &batch);
    out->kind = COMMAND_GATHER_ROWS;
    out->gather_rows = (struct op_gather_rows){
        .batch = batch.batch,
        .in = conformance_input(side, "in", batch.rows, shape->columns, columns),
        .columns = shape->columns,
        .out = conformance_output(side, "out", shape->batch.output_count, shape->columns, columns),
    };
}

static void build_rope_table(struct conformance_side *side, const void *opaque,
                             struct command *out) {
    const struct rows_shape *shape = opaque;
    struct conformance_batch batch;
    uint8_t *image;
    conformance_make_batch(side, &shape->batch, &batch);
    out->kind = COMMAND_ROPE_TABLE;
    out->rope_table = (struct op_rope_table){
        .batch = batch.batch,
        .frequencies = conformance_buffer(side, "frequencies", DTYPE_F32,
                                          (size_t)shape->columns * sizeof(double), &image),
        .pairs = shape->columns,
        .table = conformance_output(side, "table", batch.rows, 2 * shape->columns,
                                    2 * (size_t)shape->columns),
    };
    for (int pair = 0; pair < shape->columns; pair++) {
        double frequency = (double)conformance_uniform(side, 1, 1 << 30) / (double)(1 << 30);
        memcpy(image + (size_t)pair * sizeof frequency, &frequency, sizeof frequency);
    }
}

static void rowwise_cases(struct conformance *suite) {
    static const int rows[] = {0, 1, 2, 5, 33};
    static const int columns[] = {1, 7, 15, 16, 17, 31, 48, 64, 100, 257};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t j = 0; j < ARRAY_LEN(columns); j++) {
            struct rows_shape shape = {.rows = rows[i],
                                       .columns = columns[j],
                                       .groups = 1,
                                       .has_weight = 1,
                                       .padding = j % 2 == 0 ? 0 : (size_t)j};
            for (shape.in_place = 0; shape.in_place <= 2; shape.in_place++) {
                if (shape.in_place < 2) {
                    run(suite, build_rms_norm, &shape);
                    run(suite, build_gated_norm, &shape);
                }
                run(suite, build_swiglu, &shape);
            }
        }
    }
    for (int groups = 2; groups <= 5; groups++) {
        struct rows_shape shape = {.rows = 4, .columns = groups * 23, .groups = groups};
        for (int i = 0; i < 4; i++) {
            shape.has_weight = i % 2;
            shape.in_place = i / 2;
            run(suite, build_gated_norm, &shape);
        }
    }
}

static void rope_cases(struct conformance *suite) {
    static const int head_sizes[] = {2, 6, 9, 16, 30, 33, 64, 128};
    for (size_t i = 0; i < ARRAY_LEN(head_sizes); i++) {
        for (int variant = 0; variant < 8; variant++) {
            struct rows_shape shape = {
                .rows = variant < 6 ? 1 + variant : 35 * (variant - 6),
                .columns = head_sizes[i],
                .groups = head_sizes[i] >= 6 && variant % 4 < 2 ? variant % 4 + 1 : 0,
                .heads = 1 + variant % 3,
                .padding = (size_t)(variant % 2) * 11,
                .style = variant % 2 == 0 ? OP_ROPE_NEIGHBOURS : OP_ROPE_HALVES,
            };
            run(suite, build_rope, &shape);
            shape.style = variant % 2 == 0 ? OP_ROPE_HALVES : OP_ROPE_NEIGHBOURS;
            run(suite, build_rope, &shape);
        }
    }
}

static void batch_cases(struct conformance *suite) {
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0};
    const char *text;
    struct rows_shape shape = {.groups = 1};
    for (int i = 0; conformance_batch_pattern(i, &shape.batch, &text); i++) {
        for (size_t j = 0; j < ARRAY_LEN(types); j++) {
            shape.type = types[j];
            shape.columns = 32 * (1 + (i + (int)j) % 5);
            shape.columns += types[j] == DTYPE_Q8_0 ? 0 : i % 7;
            shape.batch.vocabulary = 1 + 13 * i;
            run(suite, build_embed, &shape);
        }
        shape.columns = 1 + i * 17;
        shape.batch.output_count = i % 4 == 3 ? 0 : 1 + 3 * i;
        run(suite, build_gather_rows, &shape);
        run(suite, build_rope_table, &shape);
    }
}

void conformance_cases_rows(struct conformance *suite) {
    rowwise_cases(suite);
    rope_cases(suite);
    batch_cases(suite);
}
