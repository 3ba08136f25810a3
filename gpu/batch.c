/*
 * I1. A layout is checked in full before a byte of the batch changes: a refused one leaves the
 *     batch as it was.
 * I2. layout's pointers, and those of its sequences, point into `storage` alone.
 */
#include "gpu/batch.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "gpu/backend.h"

/* Sums over a layout, to be held against the limits. */
struct totals {
    int rows;
    int blocks;
    int marks;
};

static void storage_done(struct batch_storage *storage) {
    free(storage->sequences);
    free(storage->marks);
    free(storage->blocks);
    free(storage->tokens);
    free(storage->output_rows);
    free(storage->slots);
}

/* calloc of COUNT entries, at least one, so that NULL means failure. */
static void *entries(int count, size_t entry_bytes) {
    return calloc(count > 0 ? (size_t)count : 1, entry_bytes);
}

static enum err storage_init(struct batch_storage *storage, const struct batch_limits *limits) {
    storage->sequences = entries(limits->sequences_max, sizeof *storage->sequences);
    storage->marks = entries(limits->marks_max, sizeof *storage->marks);
    storage->blocks = entries(limits->blocks_max, sizeof *storage->blocks);
    storage->tokens = entries(limits->rows_max, sizeof *storage->tokens);
    storage->output_rows = entries(limits->rows_max, sizeof *storage->output_rows);
    storage->slots = entries(limits->sequences_max + limits->marks_max, sizeof *storage->slots);
    if (storage->sequences == NULL || storage->marks == NULL || storage->blocks == NULL ||
        storage->tokens == NULL || storage->output_rows == NULL || storage->slots == NULL) {
        return err_fail(ERR_NOMEM, "batch of %d rows and %d blocks", limits->rows_max,
                        limits->blocks_max);
    }
    return ERR_OK;
}

enum err batch_create(struct device *device, const struct batch_limits *limits,
                      struct batch **out) {
    if (limits->rows_max < 1 || limits->sequences_max < 1 || limits->blocks_max < 0 ||
        limits->marks_max < 0 || limits->marks_max > INT_MAX - limits->sequences_max) {
        return err_fail(ERR_INVALID,
                        "batch limits of %d rows, %d sequences, %d blocks, %d marks; one row and "
                        "one sequence are the least",
                        limits->rows_max, limits->sequences_max, limits->blocks_max,
                        limits->marks_max);
    }
    struct batch_storage storage = {0};
    struct batch *batch = NULL;
    enum err err = storage_init(&storage, limits);
    if (err == ERR_OK) {
        err = device->ops->batch_create(device, limits, &batch);
    }
    if (err != ERR_OK) {
        storage_done(&storage);
        return err;
    }
    batch->device = device;
    batch->limits = *limits;
    batch->storage = storage;
    batch->layout = (struct batch_layout){.sequences = storage.sequences,
                                          .tokens = storage.tokens,
                                          .output_rows = storage.output_rows};
    batch->rows = 0;
    *out = batch;
    return ERR_OK;
}

void batch_destroy(struct batch *batch) {
    if (batch != NULL) {
        storage_done(&batch->storage);
        batch->device->ops->batch_destroy(batch);
    }
}

/* --- checks -------------------------------------------------------------------------- */

static enum err check_marks(const struct batch_sequence *sequence, int index) {
    if (sequence->mark_count > 0 && (sequence->marks == NULL || sequence->state_slot < 0)) {
        return err_fail(ERR_INVALID, "sequence %d has %d marks, but no %s", index,
                        sequence->mark_count, sequence->marks == NULL ? "list of them" : "state");
    }
    for (int i = 0; i < sequence->mark_count; i++) {
        const struct batch_mark *mark = &sequence->marks[i];
        int after = i == 0 ? -1 : sequence->marks[i - 1].row;
        if (mark->row <= after || mark->row >= sequence->rows || mark->slot < 0) {
            return err_fail(ERR_INVALID,
                            "sequence %d: mark %d is of row %d to slot %d, where rows %d to %d "
                            "are possible",
                            index, i, mark->row, mark->slot, after + 1, sequence->rows - 1);
        }
    }
    return ERR_OK;
}

static enum err check_sequence(const struct batch_sequence *sequence, int index) {
    if (sequence->rows < 0 || sequence->position < 0 || sequence->blocks < 0 ||
        sequence->mark_count < 0 || sequence->state_slot < -1 ||
        sequence->position > INT_MAX - sequence->rows) {
        return err_fail(ERR_INVALID,
                        "sequence %d: %d rows at position %d, %d blocks, %d marks, slot %d", index,
                        sequence->rows, sequence->position, sequence->blocks, sequence->mark_count,
                        sequence->state_slot);
    }
    if (sequence->blocks > 0 && sequence->block_table == NULL) {
        return err_fail(ERR_INVALID, "sequence %d: %d blocks without a table", index,
                        sequence->blocks);
    }
    for (int i = 0; i < sequence->blocks; i++) {
        if (sequence->block_table[i] < 0) {
            return err_fail(ERR_INVALID, "sequence %d: entry %d of the block table is %d", index, i,
                            (int)sequence->block_table[i]);
        }
    }
    return check_marks(sequence, index);
}

/* Adds MORE to *SUM unless that passes MAX. */
static enum err add_within(const char *what, int *sum, int more, int max) {
    if (more > max - *sum) {
        return err_fail(ERR_FULL, "batch of more than %d %s", max, what);
    }
    *sum += more;
    return ERR_OK;
}

static int compare_slots(const void *left, const void *right) {
    int32_t a = *(const int32_t *)left;
    int32_t b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

/* Two writers of one state slot would race on it. */
static enum err check_slots(const struct batch *batch, const struct batch_layout *layout) {
    int32_t *slots = batch->storage.slots;
    size_t count = 0;
    for (int s = 0; s < layout->sequence_count; s++) {
        const struct batch_sequence *sequence = &layout->sequences[s];
        if (sequence->rows == 0 || sequence->state_slot < 0) {
            continue;
        }
        slots[count++] = sequence->state_slot;
        for (int m = 0; m < sequence->mark_count; m++) {
            slots[count++] = sequence->marks[m].slot;
        }
    }
    qsort(slots, count, sizeof *slots, compare_slots);
    for (size_t i = 1; i < count; i++) {
        if (slots[i] == slots[i - 1]) {
            return err_fail(ERR_INVALID, "state slot %d is written twice in a batch",
                            (int)slots[i]);
        }
    }
    return ERR_OK;
}

/* Tokens and output rows, once the number of rows is known. */
static enum err check_rows(const struct batch *batch, const struct batch_layout *layout, int rows) {
    if ((rows > 0 && layout->tokens == NULL) ||
        (layout->output_count > 0 && layout->output_rows == NULL)) {
        return err_fail(ERR_INVALID, "batch of %d rows and %d output rows without a list of them",
                        rows, layout->output_count);
    }
    for (int i = 0; i < rows; i++) {
        if (layout->tokens[i] < 0) {
            return err_fail(ERR_INVALID, "row %d has token %d", i, (int)layout->tokens[i]);
        }
    }
    if (layout->output_count > batch->limits.rows_max) {
        return err_fail(ERR_FULL, "batch of %d output rows; %d are possible", layout->output_count,
                        batch->limits.rows_max);
    }
    for (int i = 0; i < layout->output_count; i++) {
        if (layout->output_rows[i] < 0 || layout->output_rows[i] >= rows) {
            return err_fail(ERR_INVALID, "output row %d of %d rows", (int)layout->output_rows[i],
                            rows);
        }
    }
    return ERR_OK;
}

static enum err check_layout(const struct batch *batch, const struct batch_layout *layout,
                             struct totals *out) {
    const struct batch_limits *limits = &batch->limits;
    if (layout->sequence_count < 0 || layout->output_count < 0 ||
        (layout->sequence_count > 0 && layout->sequences == NULL)) {
        return err_fail(ERR_INVALID, "batch of %d sequences and %d output rows",
                        layout->sequence_count, layout->output_count);
    }
    if (layout->sequence_count > limits->sequences_max) {
        return err_fail(ERR_FULL, "batch of more than %d sequences", limits->sequences_max);
    }
    struct totals totals = {0};
    for (int s = 0; s < layout->sequence_count; s++) {
        const struct batch_sequence *sequence = &layout->sequences[s];
        TRY(check_sequence(sequence, s));
        TRY(add_within("rows", &totals.rows, sequence->rows, limits->rows_max));
        TRY(add_within("blocks", &totals.blocks, sequence->blocks, limits->blocks_max));
        TRY(add_within("marks", &totals.marks, sequence->mark_count, limits->marks_max));
    }
    TRY(check_rows(batch, layout, totals.rows));
    TRY(check_slots(batch, layout));
    *out = totals;
    return ERR_OK;
}

/* --- setting ------------------------------------------------------------------------- */

/* memcpy that takes NULL for nothing. */
static void copy_entries(void *to, const void *from, int count, size_t entry_bytes) {
    if (count > 0) {
        memcpy(to, from, (size_t)count * entry_bytes);
    }
}

static void copy_layout(struct batch *batch, const struct batch_layout *layout, int rows) {
    struct batch_storage *storage = &batch->storage;
    int32_t *blocks = storage->blocks;
    struct batch_mark *marks = storage->marks;
    for (int s = 0; s < layout->sequence_count; s++) {
        const struct batch_sequence *from = &layout->sequences[s];
        struct batch_sequence *to = &storage->sequences[s];
        copy_entries(blocks, from->block_table, from->blocks, sizeof *blocks);
        copy_entries(marks, from->marks, from->mark_count, sizeof *marks);
        *to = *from;
        to->block_table = blocks;
        to->marks = marks;
        blocks += from->blocks;
        marks += from->mark_count;
    }
    copy_entries(storage->tokens, layout->tokens, rows, sizeof *storage->tokens);
    copy_entries(storage->output_rows, layout->output_rows, layout->output_count,
                 sizeof *storage->output_rows);
    batch->layout.sequence_count = layout->sequence_count;
    batch->layout.output_count = layout->output_count;
    batch->rows = rows;
}

enum err batch_set(struct batch *batch, struct device_stream *stream,
                   const struct batch_layout *layout) {
    if (batch->device != stream->device) {
        return err_fail(ERR_INVALID, "a batch and a stream of two devices");
    }
    struct totals totals = {0};
    TRY(check_layout(batch, layout, &totals));
    copy_layout(batch, layout, totals.rows);
    return batch->device->ops->batch_upload(batch, stream);
}

const struct batch_layout *batch_get_layout(const struct batch *batch) {
    return &batch->layout;
}

int batch_rows(const struct batch *batch) {
    return batch->rows;
}
