/*
 * I1  Every product and sum of sizes goes through visitor_extent, which fails on overflow, so
 *     that no size of a caller, however large, wraps round and passes the check against the
 *     buffer.
 * I2  An operand that is written overlaps no other operand, unless the op allows it to be
 *     exactly that operand. Operands are compared row by row: two slices of the same rows of
 *     one buffer, side by side, do not overlap.
 */
#include "gpu/visitor.h"

#include "gpu/backend.h"

#include <limits.h>

/* --- sizes --------------------------------------------------------------------------- */

/* a * b * c + plus; ERR_INVALID when that does not fit. */
enum err visitor_extent(const struct visitor *v, const char *name, const size_t factors[3],
                        size_t plus, size_t *out) {
    size_t result;
    if (__builtin_mul_overflow(factors[0], factors[1], &result) ||
        __builtin_mul_overflow(result, factors[2], &result) ||
        __builtin_add_overflow(result, plus, &result)) {
        return err_fail(ERR_INVALID, "%s: %s: size overflows", v->op, name);
    }
    *out = result;
    return ERR_OK;
}

enum err visitor_require_positive(const struct visitor *v, const char *name, int value) {
    if (value < 1) {
        return err_fail(ERR_INVALID, "%s: %s is %d, expected at least 1", v->op, name, value);
    }
    return ERR_OK;
}

enum err visitor_require_rows(const struct visitor *v, const char *name, int rows) {
    if (rows < 0) {
        return err_fail(ERR_INVALID, "%s: %s is %d, expected at least 0", v->op, name, rows);
    }
    return ERR_OK;
}

enum err visitor_require_multiple(const struct visitor *v, const char *name, int value,
                                  const char *of_name, int of) {
    TRY(visitor_require_positive(v, name, value));
    TRY(visitor_require_positive(v, of_name, of));
    if (value % of != 0) {
        return err_fail(ERR_INVALID, "%s: %s %d is not a multiple of %s %d", v->op, name, value,
                        of_name, of);
    }
    return ERR_OK;
}

/* --- operands ------------------------------------------------------------------------ */

enum err visitor_add(struct visitor *v, const struct visitor_matrix *m) {
    if (m->at.buffer == NULL) {
        return err_fail(ERR_INVALID, "%s: %s is missing", v->op, m->name);
    }
    if (m->stride < m->columns) {
        return err_fail(ERR_INVALID, "%s: %s: stride %zu is below %zu columns", v->op, m->name,
                        m->stride, m->columns);
    }
    if (m->at.offset_bytes % m->value_bytes != 0) {
        return err_fail(ERR_INVALID, "%s: %s: offset %zu is not a multiple of %zu", v->op, m->name,
                        m->at.offset_bytes, m->value_bytes);
    }
    struct visitor_operand operand = {.name = m->name,
                                      .at = m->at,
                                      .rows = (size_t)m->rows,
                                      .is_written = m->is_written,
                                      .is_shareable = m->is_shareable};
    const size_t row[3] = {m->columns, m->value_bytes, 1};
    const size_t stride[3] = {m->stride, m->value_bytes, 1};
    size_t end = 0;
    TRY(visitor_extent(v, m->name, row, 0, &operand.row_bytes));
    TRY(visitor_extent(v, m->name, stride, 0, &operand.stride_bytes));
    const size_t all[3] = {operand.rows, operand.stride_bytes, 1};
    TRY(visitor_extent(v, m->name, all, m->at.offset_bytes, &end));
    assert(v->count < VISITOR_OPERANDS_MAX);
    v->operands[v->count++] = operand;
    return ERR_OK;
}

/* Activations [rows][columns] of F32. */
enum err visitor_add_rows(struct visitor *v, const char *name, struct device_ptr at, int rows,
                          size_t columns, size_t stride) {
    return visitor_add(v, &(struct visitor_matrix){.name = name,
                                                   .at = at,
                                                   .rows = rows,
                                                   .columns = columns,
                                                   .stride = stride,
                                                   .value_bytes = sizeof(float)});
}

enum err visitor_add_out(struct visitor *v, const char *name, struct device_ptr at, int rows,
                         size_t columns, size_t stride) {
    return visitor_add(v, &(struct visitor_matrix){.name = name,
                                                   .at = at,
                                                   .rows = rows,
                                                   .columns = columns,
                                                   .stride = stride,
                                                   .value_bytes = sizeof(float),
                                                   .is_written = 1});
}

/* An input that the output may be exactly. */
enum err visitor_add_shareable(struct visitor *v, const char *name, struct device_ptr at, int rows,
                               size_t columns, size_t stride) {
    return visitor_add(v, &(struct visitor_matrix){.name = name,
                                                   .at = at,
                                                   .rows = rows,
                                                   .columns = columns,
                                                   .stride = stride,
                                                   .value_bytes = sizeof(float),
                                                   .is_shareable = 1});
}

/* Parameters of a layer, read once whatever the number of rows; skipped when there are none. */
enum err visitor_add_vector(struct visitor *v, const char *name, struct device_ptr at, int rows,
                            size_t values) {
    return visitor_add_rows(v, name, at, rows > 0 ? 1 : 0, values, values);
}

static size_t operand_span(const struct visitor_operand *operand) {
    return (operand->rows - 1) * operand->stride_bytes + operand->row_bytes;
}

/* Whether any row of A shares a byte with any row of B; neither is empty. */
static int rows_overlap(const struct visitor_operand *a, const struct visitor_operand *b) {
    size_t a_begin = a->at.offset_bytes;
    size_t b_begin = b->at.offset_bytes;
    size_t b_end = b_begin + operand_span(b);
    if (a_begin >= b_end || b_begin >= a_begin + operand_span(a)) {
        return 0;
    }
    for (size_t row = 0; row < a->rows; row++) {
        size_t begin = a_begin + row * a->stride_bytes;
        size_t end = begin + a->row_bytes;
        if (end <= b_begin || begin >= b_end) {
            continue;
        }
        /* The last row of B that begins before this row of A ends is the one that can reach it
         * farthest, since all rows of B are as long as each other. */
        size_t last = (end - 1 - b_begin) / b->stride_bytes;
        last = last < b->rows ? last : b->rows - 1;
        if (b_begin + last * b->stride_bytes + b->row_bytes > begin) {
            return 1;
        }
    }
    return 0;
}

static int operands_same(const struct visitor_operand *a, const struct visitor_operand *b) {
    return a->at.offset_bytes == b->at.offset_bytes && a->row_bytes == b->row_bytes &&
           a->rows == b->rows && (a->rows <= 1 || a->stride_bytes == b->stride_bytes);
}

static enum err check_overlaps(const struct visitor *v) {
    for (int i = 0; i < v->count; i++) {
        const struct visitor_operand *out = &v->operands[i];
        for (int j = 0; out->is_written && j < v->count; j++) {
            const struct visitor_operand *other = &v->operands[j];
            if (i == j || out->at.buffer != other->at.buffer || out->rows == 0 ||
                other->rows == 0 || !rows_overlap(out, other)) {
                continue;
            }
            if (!(other->is_shareable && operands_same(out, other))) {
                return err_fail(ERR_INVALID, "%s: %s overlaps %s", v->op, out->name, other->name);
            }
        }
    }
    return ERR_OK;
}

void visitor_visit(const struct visitor *v, const struct command_range *range) {
    if (range->bytes > 0) {
        v->visit(v->context, range);
    }
}

static void visit_operand(const struct visitor *v, const struct visitor_operand *operand) {
    struct command_range range = {.at = operand->at,
                                  .bytes = operand->row_bytes,
                                  .is_written = operand->is_written,
                                  .operand = operand->name};
    size_t count = operand->rows;
    if (operand->row_bytes == operand->stride_bytes) {
        range.bytes *= count;
        count = count > 0 ? 1 : 0;
    }
    for (size_t row = 0; row < count; row++) {
        visitor_visit(v, &range);
        range.at.offset_bytes += operand->stride_bytes;
    }
}

/* The end of every op's function: what was added is checked and visited. */
enum err visitor_finish(struct visitor *v) {
    TRY(check_overlaps(v));
    for (int i = 0; i < v->count; i++) {
        visit_operand(v, &v->operands[i]);
    }
    return ERR_OK;
}

enum err visitor_require_batch(const struct visitor *v, const struct batch *batch) {
    if (batch == NULL) {
        return err_fail(ERR_INVALID, "%s: batch is missing", v->op);
    }
    int rows = 0;
    for (int i = 0; i < batch->layout.sequence_count; i++) {
        const struct batch_sequence *sequence = &batch->layout.sequences[i];
        if (sequence->rows < 0 || __builtin_add_overflow(rows, sequence->rows, &rows)) {
            return err_fail(ERR_INVALID, "%s: batch: sequence %d has %d rows", v->op, i,
                            sequence->rows);
        }
        if (sequence->position < 0 || sequence->position > INT_MAX - sequence->rows) {
            return err_fail(ERR_INVALID, "%s: batch: sequence %d stands at position %d", v->op, i,
                            sequence->position);
        }
    }
    if (rows != batch->rows) {
        return err_fail(ERR_INVALID, "%s: batch: %d rows, but its sequences have %d", v->op,
                        batch->rows, rows);
    }
    return ERR_OK;
}

enum err visitor_require_weight(const struct visitor *v, const char *name,
                                const struct device_weight *weight) {
    if (weight == NULL) {
        return err_fail(ERR_INVALID, "%s: %s is missing", v->op, name);
    }
    TRY(visitor_require_positive(v, "weight rows", weight->rows));
    return visitor_require_multiple(v, "weight columns", weight->columns, "values of a block",
                                    (int)dtype_block_values(weight->type));
}
