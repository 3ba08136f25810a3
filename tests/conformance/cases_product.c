/* Matrix products: every weight type, odd sizes, every epilogue, several products at once. */
#include "tests/conformance/conformance.h"

#include <stdio.h>

struct product_shape {
    int rows;
    int columns;
    size_t padding;
    int count;
    int out_columns[OP_PRODUCTS_MAX];
    enum dtype types[OP_PRODUCTS_MAX];
    enum op_epilogue epilogues[OP_PRODUCTS_MAX];
    int has_bias[OP_PRODUCTS_MAX];
};

static void build_matmul(struct conformance_side *side, const void *opaque, struct command *out) {
    static const char *const out_names[] = {"out 0", "out 1", "out 2", "out 3"};
    const struct product_shape *shape = opaque;
    size_t stride = (size_t)shape->columns + shape->padding;
    struct op_matmul *p = &out->matmul;
    out->kind = COMMAND_MATMUL;
    *p = (struct op_matmul){
        .rows = shape->rows,
        .in = conformance_input(side, "in", shape->rows, shape->columns, stride),
        .in_stride = stride,
        .product_count = shape->count,
    };
    for (int i = 0; i < shape->count; i++) {
        int columns = shape->out_columns[i];
        size_t out_stride = (size_t)columns + shape->padding * (size_t)i;
        struct op_product *product = &p->products[i];
        *product = (struct op_product){
            .weight = conformance_weight(side, shape->types[i], columns, shape->columns),
            .out_stride = out_stride,
            .epilogue = shape->epilogues[i],
            .factor = 0.22f,
        };
        /* An epilogue that adds reads what is there. */
        product->out = conformance_input(side, out_names[i], shape->rows, columns, out_stride);
        if (shape->has_bias[i]) {
            product->bias = conformance_input(side, "bias", 1, columns, (size_t)columns);
        }
    }
}

static void run(struct conformance *suite, const struct product_shape *shape) {
    char text[200];
    int used = snprintf(text, sizeof text, "rows %d, columns %d, padding %zu", shape->rows,
                        shape->columns, shape->padding);
    for (int i = 0; i < shape->count && used < (int)sizeof text; i++) {
        used += snprintf(text + used, sizeof text - (size_t)used,
                         "; %s to %d, epilogue %d, bias %d", dtype_name(shape->types[i]),
                         shape->out_columns[i], (int)shape->epilogues[i], shape->has_bias[i]);
    }
    for (int fill = 0; fill < CONFORMANCE_FILL_COUNT; fill++) {
        conformance_run(suite, &(struct conformance_case){.build = build_matmul,
                                                          .shape = shape,
                                                          .fill = (enum conformance_fill)fill,
                                                          .text = text});
    }
}

/* One product: all types over all corners of the tiling. */
static void single_cases(struct conformance *suite) {
    static const int rows[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 40};
    static const int blocks[] = {1, 2, 3, 5, 8, 9};
    static const int out_columns[] = {1, 5, 15, 16, 17, 47, 48, 49, 64, 83, 130};
    for (int type = 0; type < DTYPE_COUNT; type++) {
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            for (int j = 0; j < 3; j++) {
                int k = conformance_choose(suite, 0, (int)ARRAY_LEN(blocks) - 1);
                int o = conformance_choose(suite, 0, (int)ARRAY_LEN(out_columns) - 1);
                struct product_shape shape = {
                    .rows = rows[i],
                    .columns = 32 * blocks[k],
                    .padding = (size_t)conformance_choose(suite, 0, 1) * 9,
                    .count = 1,
                    .out_columns = {out_columns[o]},
                    .types = {(enum dtype)type},
                    .epilogues = {(enum op_epilogue)conformance_choose(suite, 0, 2)},
                    .has_bias = {conformance_choose(suite, 0, 1)},
                };
                if (type != DTYPE_Q8_0) {
                    shape.columns += conformance_choose(suite, 0, 31) - 31;
                    shape.columns = shape.columns < 1 ? 1 : shape.columns;
                }
                run(suite, &shape);
            }
        }
    }
}

/* Several products of one input, types mixed. */
static void joint_cases(struct conformance *suite) {
    for (int i = 0; i < 60; i++) {
        struct product_shape shape = {
            .rows = conformance_choose(suite, 1, 19),
            .columns = 32 * conformance_choose(suite, 1, 9),
            .padding = (size_t)conformance_choose(suite, 0, 5),
            .count = conformance_choose(suite, 2, OP_PRODUCTS_MAX),
        };
        for (int j = 0; j < shape.count; j++) {
            shape.out_columns[j] = conformance_choose(suite, 1, 100);
            shape.types[j] = (enum dtype)conformance_choose(suite, 0, DTYPE_COUNT - 1);
            shape.epilogues[j] = (enum op_epilogue)conformance_choose(suite, 0, 2);
            shape.has_bias[j] = conformance_choose(suite, 0, 1);
        }
        run(suite, &shape);
    }
}

/* Long rows, where a sum that is split or reordered shows. */
static void long_cases(struct conformance *suite) {
    for (int type = 0; type < DTYPE_COUNT; type++) {
        for (int i = 0; i < 3; i++) {
            struct product_shape shape = {
                .rows = 1 + 5 * i,
                .columns = 2048 + 32 * i,
                .count = 1,
                .out_columns = {200 + i},
                .types = {(enum dtype)type},
            };
            run(suite, &shape);
        }
    }
}

void conformance_cases_product(struct conformance *suite) {
    single_cases(suite);
    joint_cases(suite);
    long_cases(suite);
}
