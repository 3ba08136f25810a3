#include "gpu/batch.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct batch_limits limits = {
    .rows_max = 8, .sequences_max = 3, .blocks_max = 6, .marks_max = 3};

struct bench {
    struct device *device;
    struct device_stream *stream;
    struct batch *batch;
};

static struct bench setup(void) {
    struct bench bench;
    const struct device_config config = {.isa = "reference", .threads = 1};
    assert_int_equal(device_open(&config, &bench.device), ERR_OK);
    assert_int_equal(device_stream_create(bench.device, DEVICE_STREAM_COMPUTE, &bench.stream),
                     ERR_OK);
    assert_int_equal(batch_create(bench.device, &limits, &bench.batch), ERR_OK);
    return bench;
}

static void teardown(struct bench *bench) {
    batch_destroy(bench->batch);
    device_stream_destroy(bench->stream);
    device_close(bench->device);
}

/* A layout in memory of its own, sound until a test changes something. */
struct sample {
    int32_t tables[3][4];
    struct batch_mark marks[3][3];
    struct batch_sequence sequences[4];
    int32_t tokens[16];
    int32_t output_rows[16];
    struct batch_layout layout;
};

static void sample_init(struct sample *sample) {
    memset(sample, 0, sizeof *sample);
    for (int i = 0; i < 4; i++) {
        sample->tables[0][i] = 10 + i;
        sample->tables[2][i] = 20 + i;
    }
    sample->marks[0][0] = (struct batch_mark){0, 7};
    sample->marks[0][1] = (struct batch_mark){3, 8};
    sample->marks[2][0] = (struct batch_mark){2, 9};
    for (int i = 0; i < 16; i++) {
        sample->tokens[i] = 100 + i;
    }
    sample->output_rows[0] = 6;
    sample->output_rows[1] = 3;
    sample->sequences[0] = (struct batch_sequence){.rows = 4,
                                                   .position = 60,
                                                   .state_slot = 1,
                                                   .block_table = sample->tables[0],
                                                   .blocks = 3,
                                                   .marks = sample->marks[0],
                                                   .mark_count = 2};
    sample->sequences[1] = (struct batch_sequence){.state_slot = -1};
    sample->sequences[2] = (struct batch_sequence){.rows = 3,
                                                   .position = 0,
                                                   .state_slot = 2,
                                                   .block_table = sample->tables[2],
                                                   .blocks = 2,
                                                   .marks = sample->marks[2],
                                                   .mark_count = 1};
    sample->layout = (struct batch_layout){.sequences = sample->sequences,
                                           .sequence_count = 3,
                                           .tokens = sample->tokens,
                                           .output_rows = sample->output_rows,
                                           .output_count = 2};
}

/* What sample_init describes, wherever the memory it came from has gone. */
static void assert_holds_sample(const struct batch *batch) {
    const struct batch_layout *layout = batch_get_layout(batch);
    assert_int_equal(batch_rows(batch), 7);
    assert_int_equal(layout->sequence_count, 3);
    assert_int_equal(layout->output_count, 2);
    assert_int_equal(layout->output_rows[0], 6);
    assert_int_equal(layout->output_rows[1], 3);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(layout->tokens[i], 100 + i);
    }
    const struct batch_sequence *first = &layout->sequences[0];
    const struct batch_sequence *last = &layout->sequences[2];
    assert_int_equal(first->rows, 4);
    assert_int_equal(first->position, 60);
    assert_int_equal(first->state_slot, 1);
    assert_int_equal(first->blocks, 3);
    assert_int_equal(first->block_table[2], 12);
    assert_int_equal(first->mark_count, 2);
    assert_int_equal(first->marks[1].row, 3);
    assert_int_equal(first->marks[1].slot, 8);
    assert_int_equal(layout->sequences[1].rows, 0);
    assert_int_equal(layout->sequences[1].state_slot, -1);
    assert_int_equal(last->rows, 3);
    assert_int_equal(last->block_table[0], 20);
    assert_int_equal(last->block_table[1], 21);
    assert_int_equal(last->marks[0].row, 2);
    assert_int_equal(last->marks[0].slot, 9);
}

static void test_batch_keeps_a_copy(void **state) {
    (void)state;
    struct bench bench = setup();
    struct sample sample;
    assert_int_equal(batch_rows(bench.batch), 0);
    assert_int_equal(batch_get_layout(bench.batch)->sequence_count, 0);
    sample_init(&sample);
    assert_int_equal(batch_set(bench.batch, bench.stream, &sample.layout), ERR_OK);
    memset(&sample, 0xee, sizeof sample);
    assert_holds_sample(bench.batch);
    teardown(&bench);
}

static void test_batch_can_be_empty(void **state) {
    (void)state;
    struct bench bench = setup();
    const struct batch_layout layout = {0};
    assert_int_equal(batch_set(bench.batch, bench.stream, &layout), ERR_OK);
    assert_int_equal(batch_rows(bench.batch), 0);
    teardown(&bench);
}

struct fault {
    const char *what;
    void (*make)(struct sample *sample);
    enum err expected;
};

static void negative_rows(struct sample *s) {
    s->sequences[0].rows = -1;
}
static void negative_position(struct sample *s) {
    s->sequences[0].position = -1;
}
static void position_past_int(struct sample *s) {
    s->sequences[0].position = INT_MAX - 3;
}
static void negative_blocks(struct sample *s) {
    s->sequences[0].blocks = -1;
}
static void negative_block(struct sample *s) {
    s->tables[2][1] = -1;
}
static void no_table(struct sample *s) {
    s->sequences[0].block_table = NULL;
}
static void slot_below_none(struct sample *s) {
    s->sequences[0].state_slot = -2;
}
static void slot_twice(struct sample *s) {
    s->sequences[2].state_slot = 1;
}
static void negative_marks(struct sample *s) {
    s->sequences[0].mark_count = -1;
}
static void no_marks(struct sample *s) {
    s->sequences[0].marks = NULL;
}
static void marks_without_state(struct sample *s) {
    s->sequences[0].state_slot = -1;
}
static void mark_row_past_end(struct sample *s) {
    s->marks[0][1].row = 4;
}
static void mark_row_negative(struct sample *s) {
    s->marks[0][0].row = -1;
}
static void mark_row_twice(struct sample *s) {
    s->marks[0][1].row = 0;
}
static void mark_slot_negative(struct sample *s) {
    s->marks[2][0].slot = -1;
}
static void mark_slot_twice(struct sample *s) {
    s->marks[2][0].slot = 7;
}
static void mark_on_running_slot(struct sample *s) {
    s->marks[0][0].slot = 1;
}
static void negative_token(struct sample *s) {
    s->tokens[6] = -1;
}
static void no_tokens(struct sample *s) {
    s->layout.tokens = NULL;
}
static void output_row_past_end(struct sample *s) {
    s->output_rows[1] = 7;
}
static void output_row_negative(struct sample *s) {
    s->output_rows[1] = -1;
}
static void negative_output_count(struct sample *s) {
    s->layout.output_count = -1;
}
static void no_output_rows(struct sample *s) {
    s->layout.output_rows = NULL;
}
static void negative_sequence_count(struct sample *s) {
    s->layout.sequence_count = -1;
}
static void no_sequences(struct sample *s) {
    s->layout.sequences = NULL;
}
static void too_many_rows(struct sample *s) {
    s->sequences[2].rows = 5;
}
static void too_many_sequences(struct sample *s) {
    s->layout.sequence_count = 4;
}
static void too_many_blocks(struct sample *s) {
    s->sequences[0].blocks = 4;
    s->sequences[2].blocks = 3;
}
static void too_many_marks(struct sample *s) {
    s->marks[2][0] = (struct batch_mark){0, 9};
    s->marks[2][1] = (struct batch_mark){1, 10};
    s->sequences[2].mark_count = 2;
}
static void too_many_outputs(struct sample *s) {
    s->layout.output_count = 9;
}

static const struct fault faults[] = {
    {"rows below 0", negative_rows, ERR_INVALID},
    {"position below 0", negative_position, ERR_INVALID},
    {"position past INT_MAX", position_past_int, ERR_INVALID},
    {"blocks below 0", negative_blocks, ERR_INVALID},
    {"block id below 0", negative_block, ERR_INVALID},
    {"no block table", no_table, ERR_INVALID},
    {"slot below -1", slot_below_none, ERR_INVALID},
    {"two sequences on a slot", slot_twice, ERR_INVALID},
    {"marks below 0", negative_marks, ERR_INVALID},
    {"no list of marks", no_marks, ERR_INVALID},
    {"marks without a state", marks_without_state, ERR_INVALID},
    {"mark past the rows", mark_row_past_end, ERR_INVALID},
    {"mark before the rows", mark_row_negative, ERR_INVALID},
    {"two marks on a row", mark_row_twice, ERR_INVALID},
    {"mark to slot -1", mark_slot_negative, ERR_INVALID},
    {"two marks to a slot", mark_slot_twice, ERR_INVALID},
    {"mark to a running slot", mark_on_running_slot, ERR_INVALID},
    {"token below 0", negative_token, ERR_INVALID},
    {"no tokens", no_tokens, ERR_INVALID},
    {"output row past the rows", output_row_past_end, ERR_INVALID},
    {"output row below 0", output_row_negative, ERR_INVALID},
    {"outputs below 0", negative_output_count, ERR_INVALID},
    {"no output rows", no_output_rows, ERR_INVALID},
    {"sequences below 0", negative_sequence_count, ERR_INVALID},
    {"no sequences", no_sequences, ERR_INVALID},
    {"too many rows", too_many_rows, ERR_FULL},
    {"too many sequences", too_many_sequences, ERR_FULL},
    {"too many blocks", too_many_blocks, ERR_FULL},
    {"too many marks", too_many_marks, ERR_FULL},
    {"too many outputs", too_many_outputs, ERR_FULL},
};

static void test_batch_refuses_and_stays_as_it_was(void **state) {
    (void)state;
    struct bench bench = setup();
    struct sample sample;
    sample_init(&sample);
    assert_int_equal(batch_set(bench.batch, bench.stream, &sample.layout), ERR_OK);
    for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
        sample_init(&sample);
        faults[i].make(&sample);
        enum err err = batch_set(bench.batch, bench.stream, &sample.layout);
        if (err != faults[i].expected) {
            fail_msg("%s: %s", faults[i].what, err_name(err));
        }
        assert_holds_sample(bench.batch);
    }
    teardown(&bench);
}

static void test_batch_takes_exactly_its_limits(void **state) {
    (void)state;
    struct bench bench = setup();
    struct sample sample;
    sample_init(&sample);
    sample.sequences[2].rows = 4;
    sample.sequences[2].blocks = 3;
    sample.layout.output_count = 8;
    memset(sample.output_rows, 0, sizeof sample.output_rows);
    assert_int_equal(batch_set(bench.batch, bench.stream, &sample.layout), ERR_OK);
    assert_int_equal(batch_rows(bench.batch), limits.rows_max);
    teardown(&bench);
}

static void test_batch_create_refuses_bad_limits(void **state) {
    (void)state;
    static const struct batch_limits bad[] = {
        {.rows_max = 0, .sequences_max = 1},
        {.rows_max = 1, .sequences_max = 0},
        {.rows_max = 1, .sequences_max = 1, .blocks_max = -1},
        {.rows_max = 1, .sequences_max = 1, .marks_max = -1},
        {.rows_max = 1, .sequences_max = INT_MAX, .marks_max = 1},
    };
    struct bench bench = setup();
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct batch *batch = NULL;
        assert_int_equal(batch_create(bench.device, &bad[i], &batch), ERR_INVALID);
        assert_null(batch);
    }
    batch_destroy(NULL);
    teardown(&bench);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_keeps_a_copy),
        cmocka_unit_test(test_batch_can_be_empty),
        cmocka_unit_test(test_batch_refuses_and_stays_as_it_was),
        cmocka_unit_test(test_batch_takes_exactly_its_limits),
        cmocka_unit_test(test_batch_create_refuses_bad_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
