/*
 * A batch: which token rows of one step belong to which sequence, where each
 * sequence stands, and which pool blocks and state slots it uses. Set once per
 * step, read by every op of the step. On CUDA it lives at fixed device
 * addresses; the host backend reads the copy that batch_set makes.
 *
 * Rows of a sequence are consecutive tokens at positions position, position+1, ...
 * and lie one after another in the step's activations.
 */
#ifndef TERN_GPU_BATCH_H
#define TERN_GPU_BATCH_H

#include "gpu/device.h"

struct batch;

/* The state after a sequence's row `row` (0-based within the sequence) is copied to slot `slot`. */
struct batch_mark {
    int row;
    int slot;
};

struct batch_sequence {
    int rows;       /* tokens of this step; 0 is allowed and does nothing */
    int position;   /* absolute position of the first of them */
    int state_slot; /* running slot, read and advanced in place; -1: no recurrent layer */
    const int32_t *block_table;     /* pool block of tokens [i * block_size, (i+1) * block_size) */
    int blocks;                     /* entries; cover position + rows tokens; 0 without attention */
    const struct batch_mark *marks; /* ascending by row, each row at most once */
    int mark_count;
};

struct batch_layout {
    const struct batch_sequence *sequences;
    int sequence_count;
    const int32_t *tokens;      /* one id a row: rows of sequence 0, then 1, ... */
    const int32_t *output_rows; /* rows (of the step) that op_gather_rows takes, in any order */
    int output_count;
};

struct batch_limits {
    int rows_max;
    int sequences_max;
    int blocks_max; /* block-table entries over all sequences */
    int marks_max;  /* over all sequences */
};

MUST_USE enum err batch_create(struct device *device, const struct batch_limits *limits,
                               struct batch **out);
void batch_destroy(struct batch *batch);

/*
 * Copies LAYOUT; ops enqueued on STREAM from now on see it. No op that was enqueued with the
 * batch before may still be pending. ERR_FULL past a limit, ERR_INVALID for a layout that
 * contradicts itself (negative counts, marks or output rows out of range).
 */
MUST_USE enum err batch_set(struct batch *batch, struct device_stream *stream,
                            const struct batch_layout *layout);

/* The layout last set, with all pointers into the batch. For gpu/ and tests. */
const struct batch_layout *batch_get_layout(const struct batch *batch);
int batch_rows(const struct batch *batch);

#endif
