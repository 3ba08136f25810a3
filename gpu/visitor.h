/*
 * Collects the operands of one command, checks them against each other, and
 * visits their byte ranges. Internal to command.c, which says what each op has.
 * A visitor lives for one call, on its stack; it owns nothing.
 *
 * All errors are ERR_INVALID and name the op and the operand.
 */
#ifndef TERN_GPU_VISITOR_H
#define TERN_GPU_VISITOR_H

#include "gpu/command.h"

enum { VISITOR_OPERANDS_MAX = 12 };

/* A matrix in device memory; row r begins at byte r * stride_bytes. */
struct visitor_operand {
    const char *name;
    struct device_ptr at;
    size_t rows;
    size_t row_bytes;
    size_t stride_bytes;
    int is_written;
    int is_shareable; /* a written operand may be exactly this one */
};

struct visitor {
    const char *op;
    command_range_fn *visit;
    void *context;
    struct visitor_operand operands[VISITOR_OPERANDS_MAX];
    int count;
};

/* A matrix before it is checked; sizes in values. */
struct visitor_matrix {
    const char *name;
    struct device_ptr at;
    int rows;
    size_t columns;
    size_t stride;
    size_t value_bytes;
    int is_written;
    int is_shareable;
};

/* --- sizes --------------------------------------------------------------------------- */

/* *out = product of FACTORS + PLUS; fails when that does not fit. */
MUST_USE enum err visitor_extent(const struct visitor *v, const char *name, const size_t factors[3],
                                 size_t plus, size_t *out);
MUST_USE enum err visitor_require_positive(const struct visitor *v, const char *name, int value);
MUST_USE enum err visitor_require_rows(const struct visitor *v, const char *name, int rows);

/* Both are positive, and VALUE is a multiple of OF. */
MUST_USE enum err visitor_require_multiple(const struct visitor *v, const char *name, int value,
                                           const char *of_name, int of);
MUST_USE enum err visitor_require_batch(const struct visitor *v, const struct batch *batch);
MUST_USE enum err visitor_require_weight(const struct visitor *v, const char *name,
                                         const struct device_weight *weight);

/* --- operands ------------------------------------------------------------------------ */

MUST_USE enum err visitor_add(struct visitor *v, const struct visitor_matrix *m);

/* Activations [rows][columns] of F32 that are read. */
MUST_USE enum err visitor_add_rows(struct visitor *v, const char *name, struct device_ptr at,
                                   int rows, size_t columns, size_t stride);

/* ... that are read, and that an output may be exactly. */
MUST_USE enum err visitor_add_shareable(struct visitor *v, const char *name, struct device_ptr at,
                                        int rows, size_t columns, size_t stride);

/* ... that are written. */
MUST_USE enum err visitor_add_out(struct visitor *v, const char *name, struct device_ptr at,
                                  int rows, size_t columns, size_t stride);

/* Parameters of a layer, read whatever the number of rows, unless that is 0. */
MUST_USE enum err visitor_add_vector(struct visitor *v, const char *name, struct device_ptr at,
                                     int rows, size_t values);

/* Checks the operands against each other, then visits them: rows that lie side by side as one
 * range, others one by one. */
MUST_USE enum err visitor_finish(struct visitor *v);

/* Visits one range, unless it is empty. */
void visitor_visit(const struct visitor *v, const struct command_range *range);

/* --- pools (visitor_pool.c) ---------------------------------------------------------- */

/* Bytes of K and of V in a block. */
struct visitor_kv {
    size_t key_bytes;
    size_t value_bytes;
};

MUST_USE enum err visitor_check_kv(const struct visitor *v, const struct op_kv_view *kv,
                                   struct visitor_kv *out);

/* Visits K and V of blocks [first, end) of a sequence. */
MUST_USE enum err visitor_visit_blocks(const struct visitor *v, const struct op_kv_view *kv,
                                       const struct visitor_kv *size,
                                       const struct batch_sequence *sequence, int first, int end,
                                       int is_written);

/* The segment has VALUES values. */
MUST_USE enum err visitor_check_state(const struct visitor *v, const struct op_state_view *state,
                                      size_t values);

/* Visits the running slot and the mark slots of every sequence that has rows. */
MUST_USE enum err visitor_visit_slots(const struct visitor *v, const struct batch *batch,
                                      const struct op_state_view *state, size_t values);

#endif
