/* Matrix products: plain weights widened value by value, Q8_0 with quantised activations. */
#include "base/half.h"
#include "gpu/backend.h"
#include "gpu/reference/reference_op.h"
#include "gpu/transcendental.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_VALUES = 32, BLOCK_BYTES = 34 };

struct quantised_block {
    float scale;
    int8_t quants[BLOCK_VALUES];
};

static void quantise_block(const float *x, struct quantised_block *out) {
    float largest = 0.0f;
    int is_finite = 1;
    for (int i = 0; i < BLOCK_VALUES; i++) {
        is_finite = is_finite && isfinite(x[i]);
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    }
    memset(out->quants, 0, sizeof out->quants);
    if (!is_finite) {
        out->scale = NAN;
        return;
    }
    if (largest < TRANSCENDENTAL_QUANTISE_MIN) {
        out->scale = 0.0f;
        return;
    }
    out->scale = largest / 127.0f;
    float inverse = 127.0f / largest;
    for (int i = 0; i < BLOCK_VALUES; i++) {
        out->quants[i] = (int8_t)rintf(x[i] * inverse); /* at most 127 and an ulp, so 127 */
    }
}

static float product_q8_0(const uint8_t *weight_row, const struct quantised_block *x, int blocks) {
    float acc = 0.0f;
    for (int b = 0; b < blocks; b++) {
        const uint8_t *block = weight_row + (size_t)b * BLOCK_BYTES;
        uint16_t scale;
        memcpy(&scale, block, sizeof scale);
        int32_t sum = 0;
        for (int i = 0; i < BLOCK_VALUES; i++) {
            sum += (int8_t)block[2 + i] * x[b].quants[i];
        }
        acc = fmaf((float)sum, half_f16_to_f32(scale) * x[b].scale, acc);
    }
    return acc;
}

static float product_plain(enum dtype type, const void *weight_row, const float *x, int columns) {
    float acc = 0.0f;
    for (int k = 0; k < columns; k++) {
        acc = fmaf(reference_op_load(type, weight_row, (size_t)k), x[k], acc);
    }
    return acc;
}

static void finish(const struct op_product *product, float acc, const float *bias, float *out) {
    float y = bias != NULL ? acc + *bias : acc;
    switch (product->epilogue) {
    case OP_EPILOGUE_STORE:
        *out = y;
        break;
    case OP_EPILOGUE_ADD:
        *out = fmaf(y, product->factor, *out);
        break;
    case OP_EPILOGUE_DIVIDE:
        *out = y / product->factor;
        break;
    }
}

/* One product; QUANTISED holds all rows of the input, or is NULL if the weight is plain. */
static void run_product(const struct op_matmul *p, const struct op_product *product,
                        const struct quantised_block *quantised,
                        const struct reference_memory *memory, uint8_t *weight_row) {
    enum dtype type = product->weight->type;
    int columns = product->weight->columns;
    int blocks = columns / BLOCK_VALUES;
    const float *bias = reference_op_floats(memory, product->bias);
    for (int o = 0; o < product->weight->rows; o++) {
        memory->weight_row(memory->context, product->weight, o, weight_row);
        for (int row = 0; row < p->rows; row++) {
            const float *x = reference_op_floats(memory, p->in) + (size_t)row * p->in_stride;
            float *out =
                reference_op_floats(memory, product->out) + (size_t)row * product->out_stride;
            float acc =
                type == DTYPE_Q8_0
                    ? product_q8_0(weight_row, quantised + (size_t)row * (size_t)blocks, blocks)
                    : product_plain(type, weight_row, x, columns);
            finish(product, acc, bias != NULL ? bias + o : NULL, out + o);
        }
    }
}

/* All rows of the input, quantised; NULL when memory is short. */
static struct quantised_block *quantise(const struct op_matmul *p, int columns,
                                        const struct reference_memory *memory) {
    size_t blocks = (size_t)columns / BLOCK_VALUES;
    struct quantised_block *out = calloc((size_t)p->rows * blocks, sizeof *out);
    if (out == NULL) {
        return NULL;
    }
    for (int row = 0; row < p->rows; row++) {
        const float *x = reference_op_floats(memory, p->in) + (size_t)row * p->in_stride;
        for (size_t b = 0; b < blocks; b++) {
            quantise_block(x + b * BLOCK_VALUES, &out[(size_t)row * blocks + b]);
        }
    }
    return out;
}

enum err reference_op_matmul(const struct op_matmul *p, const struct reference_memory *memory) {
    int columns = p->products[0].weight->columns;
    struct quantised_block *quantised CLEANUP(object_free) = NULL;
    uint8_t *weight_row CLEANUP(object_free) = malloc((size_t)columns * sizeof(float));
    if (p->rows == 0) {
        return ERR_OK;
    }
    if (weight_row == NULL) {
        return err_fail(ERR_NOMEM, "reference matmul: a row of %d columns", columns);
    }
    for (int i = 0; i < p->product_count; i++) {
        if (p->products[i].weight->type == DTYPE_Q8_0 && quantised == NULL) {
            quantised = quantise(p, columns, memory);
            if (quantised == NULL) {
                return err_fail(ERR_NOMEM, "reference matmul: %d rows of %d columns", p->rows,
                                columns);
            }
        }
        run_product(p, &p->products[i], quantised, memory, weight_row);
    }
    return ERR_OK;
}
