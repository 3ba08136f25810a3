#include "gpu/command.h"

#include "gpu/backend.h"

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { RANGES_MAX = 64 };

struct visited {
    struct command_range ranges[RANGES_MAX];
    int count;
};

static void collect(void *context, const struct command_range *range) {
    struct visited *visited = context;
    assert_true(visited->count < RANGES_MAX);
    visited->ranges[visited->count++] = *range;
}

static struct visited visit(const struct command *command) {
    struct visited visited = {.count = 0};
    assert_int_equal(command_visit_ranges(command, collect, &visited), ERR_OK);
    return visited;
}

static void assert_range(const struct visited *visited, int idx, const char *operand,
                         size_t offset_bytes, size_t bytes, int is_written) {
    assert_true(idx < visited->count);
    const struct command_range *range = &visited->ranges[idx];
    assert_string_equal(range->operand, operand);
    assert_int_equal(range->at.offset_bytes, offset_bytes);
    assert_int_equal(range->bytes, bytes);
    assert_int_equal(range->is_written, is_written);
}

/* Refused, with a message that has both words. */
static void assert_refused(const struct command *command, const char *op, const char *word) {
    assert_int_equal(command_check(command), ERR_INVALID);
    if (strstr(err_message(), op) == NULL || strstr(err_message(), word) == NULL) {
        fail_msg("'%s' does not name %s and %s", err_message(), op, word);
    }
}

static struct device_buffer big = {.bytes = 1 << 20};
static struct device_buffer pool = {.bytes = 1 << 20};
static struct device_weight weight_f32 = {.type = DTYPE_F32, .rows = 10, .columns = 64};
static struct device_weight weight_q8_0 = {.type = DTYPE_Q8_0, .rows = 20, .columns = 64};

static struct device_ptr at(size_t values) {
    return device_ptr_at(&big, values * sizeof(float));
}

static struct command rms_norm(void) {
    return (struct command){.kind = COMMAND_RMS_NORM,
                            .rms_norm = {.rows = 3,
                                         .columns = 8,
                                         .in = at(0),
                                         .in_stride = 16,
                                         .weight = at(100),
                                         .out = at(200),
                                         .out_stride = 8}};
}

static void test_command_names_every_kind(void **state) {
    (void)state;
    for (int i = 0; i < COMMAND_KIND_COUNT; i++) {
        assert_non_null(command_name((enum command_kind)i));
    }
    assert_string_equal(command_name(COMMAND_SSM_SCAN), "ssm_scan");
    assert_int_equal(command_check(&(struct command){.kind = COMMAND_KIND_COUNT}), ERR_INVALID);
}

static void test_command_visits_strided_rows_one_by_one(void **state) {
    (void)state;
    struct command command = rms_norm();
    struct visited visited = visit(&command);
    assert_int_equal(visited.count, 5);
    for (int row = 0; row < 3; row++) {
        assert_range(&visited, row, "in", 64 * (size_t)row, 32, 0);
    }
    assert_range(&visited, 3, "weight", 400, 32, 0);
    assert_range(&visited, 4, "out", 800, 96, 1); /* dense: one range */
    command.rms_norm.rows = 0;
    assert_int_equal(visit(&command).count, 0);
}

static void test_command_refuses_sizes_that_contradict(void **state) {
    (void)state;
    struct command command = rms_norm();
    command.rms_norm.rows = -1;
    assert_refused(&command, "rms_norm", "rows");
    command = rms_norm();
    command.rms_norm.columns = 0;
    assert_refused(&command, "rms_norm", "columns");
    command = rms_norm();
    command.rms_norm.in_stride = 7;
    assert_refused(&command, "rms_norm", "in");
    command = rms_norm();
    command.rms_norm.weight.buffer = NULL;
    assert_refused(&command, "rms_norm", "weight");
    command = rms_norm();
    command.rms_norm.out.offset_bytes += 2;
    assert_refused(&command, "rms_norm", "out");
    command = rms_norm();
    command.rms_norm.in_stride = SIZE_MAX / 4;
    assert_refused(&command, "rms_norm", "in");
}

static void test_command_keeps_within_buffers(void **state) {
    (void)state;
    struct command command = rms_norm();
    command.rms_norm.out.offset_bytes = big.bytes - 96;
    assert_int_equal(command_check(&command), ERR_OK);
    command.rms_norm.out.offset_bytes += 4;
    assert_refused(&command, "rms_norm", "out");
    command.rms_norm.out.offset_bytes = big.bytes + 4;
    assert_refused(&command, "rms_norm", "out");
    command.rms_norm.out.offset_bytes = SIZE_MAX - 3;
    assert_refused(&command, "rms_norm", "out");
}

static void test_command_knows_which_operands_may_be_one(void **state) {
    (void)state;
    struct command command = rms_norm();
    command.rms_norm.out = command.rms_norm.in;
    command.rms_norm.out_stride = command.rms_norm.in_stride;
    assert_int_equal(command_check(&command), ERR_OK);
    command.rms_norm.out_stride = 8; /* another walk over the same bytes */
    assert_refused(&command, "rms_norm", "overlaps");
    /* Side by side in the same rows: no overlap. */
    command.rms_norm.out = at(8);
    command.rms_norm.out_stride = 16;
    assert_int_equal(command_check(&command), ERR_OK);
    command.rms_norm.out = at(7);
    assert_refused(&command, "rms_norm", "overlaps");
    command = rms_norm();
    command.rms_norm.out = command.rms_norm.weight;
    assert_refused(&command, "rms_norm", "overlaps");
}

static void test_command_checks_products(void **state) {
    (void)state;
    struct command command = {
        .kind = COMMAND_MATMUL,
        .matmul = {
            .rows = 2,
            .in = at(0),
            .in_stride = 64,
            .product_count = 2,
            .products = {
                {.weight = &weight_f32, .out = at(1000), .out_stride = 30},
                {.weight = &weight_q8_0, .bias = at(500), .out = at(1010), .out_stride = 30}}}};
    assert_int_equal(command_check(&command), ERR_OK);
    command.matmul.products[1].out = at(1009);
    assert_refused(&command, "matmul", "overlaps");
    command.matmul.products[1].out = at(127);
    assert_refused(&command, "matmul", "in");
    command.matmul.products[1].out = at(1010);
    command.matmul.product_count = 5;
    assert_refused(&command, "matmul", "products");
    command.matmul.product_count = 2;
    struct device_weight narrow = {.type = DTYPE_F32, .rows = 20, .columns = 32};
    command.matmul.products[1].weight = &narrow;
    assert_refused(&command, "matmul", "columns");
}

static void test_command_refuses_unknown_tokens_and_rows(void **state) {
    (void)state;
    struct batch_sequence sequence = {.rows = 2, .state_slot = -1};
    int32_t tokens[] = {9, 0};
    int32_t output_rows[] = {1};
    struct batch batch = {.layout = {.sequences = &sequence,
                                     .sequence_count = 1,
                                     .tokens = tokens,
                                     .output_rows = output_rows,
                                     .output_count = 1},
                          .rows = 2};
    struct command embed = {
        .kind = COMMAND_EMBED,
        .embed = {.batch = &batch, .weight = &weight_f32, .scale = 1, .out = at(0)}};
    assert_int_equal(command_check(&embed), ERR_OK);
    tokens[0] = 10;
    assert_refused(&embed, "embed", "token");
    struct command gather = {
        .kind = COMMAND_GATHER_ROWS,
        .gather_rows = {.batch = &batch, .in = at(0), .columns = 4, .out = at(100)}};
    assert_int_equal(command_check(&gather), ERR_OK);
    output_rows[0] = 2;
    assert_refused(&gather, "gather_rows", "row");
}

/* --- pools ------------------------------------------------------------------------------- */

enum { BLOCK_BYTES = 1024, KEY_BYTES = 2 * 4 * 8 * 2, VALUE_AT = 256, VALUE_BYTES = 2 * 3 * 8 * 2 };

struct kv_fixture {
    int32_t table[3];
    struct batch_sequence sequence;
    struct batch batch;
};

/* Rows at 7, 8, 9 of blocks of 8 tokens: blocks 0 and 1 of the table. */
static void init_kv_fixture(struct kv_fixture *f) {
    *f = (struct kv_fixture){.table = {5, 2, 9}};
    f->sequence = (struct batch_sequence){
        .rows = 3, .position = 7, .state_slot = -1, .block_table = f->table, .blocks = 3};
    f->batch =
        (struct batch){.layout = {.sequences = &f->sequence, .sequence_count = 1}, .rows = 3};
}

static struct op_kv_view kv_view(void) {
    return (struct op_kv_view){.pool = &pool,
                               .block_bytes = BLOCK_BYTES,
                               .key_offset_bytes = 0,
                               .value_offset_bytes = VALUE_AT,
                               .block_size = 8,
                               .kv_heads = 2,
                               .key_size = 4,
                               .value_size = 3,
                               .type = DTYPE_F16};
}

static struct command attention(const struct kv_fixture *f) {
    return (struct command){.kind = COMMAND_ATTENTION,
                            .attention = {.batch = &f->batch,
                                          .kv = kv_view(),
                                          .heads = 4,
                                          .scale = 1,
                                          .query = at(0),
                                          .query_stride = 16,
                                          .out = at(1000),
                                          .out_stride = 12}};
}

static void test_command_visits_blocks_that_are_read(void **state) {
    (void)state;
    struct kv_fixture f;
    init_kv_fixture(&f);
    struct command command = attention(&f);
    struct visited visited = visit(&command);
    assert_int_equal(visited.count, 6);
    assert_range(&visited, 2, "kv key", 5 * BLOCK_BYTES, KEY_BYTES, 0);
    assert_range(&visited, 3, "kv value", 5 * BLOCK_BYTES + VALUE_AT, VALUE_BYTES, 0);
    assert_range(&visited, 4, "kv key", 2 * BLOCK_BYTES, KEY_BYTES, 0);
    assert_range(&visited, 5, "kv value", 2 * BLOCK_BYTES + VALUE_AT, VALUE_BYTES, 0);
}

static void test_command_visits_only_blocks_that_are_written(void **state) {
    (void)state;
    struct kv_fixture f;
    init_kv_fixture(&f);
    f.sequence.position = 8;
    struct command command = {.kind = COMMAND_KV_WRITE,
                              .kv_write = {.batch = &f.batch,
                                           .kv = kv_view(),
                                           .key = at(0),
                                           .key_stride = 8,
                                           .value = at(100),
                                           .value_stride = 6}};
    struct visited visited = visit(&command);
    assert_int_equal(visited.count, 4);
    assert_range(&visited, 2, "kv key", 2 * BLOCK_BYTES, KEY_BYTES, 1);
    assert_range(&visited, 3, "kv value", 2 * BLOCK_BYTES + VALUE_AT, VALUE_BYTES, 1);
}

static void test_command_refuses_batches_that_blocks_do_not_cover(void **state) {
    (void)state;
    struct kv_fixture f;
    init_kv_fixture(&f);
    struct command command = attention(&f);
    f.sequence.blocks = 1;
    assert_refused(&command, "attention", "blocks");
    init_kv_fixture(&f);
    f.table[1] = -1;
    assert_refused(&command, "attention", "block");
    f.table[1] = 1024; /* the first one past the pool */
    assert_refused(&command, "attention", "kv key");
    init_kv_fixture(&f);
    f.sequence.position = INT_MAX;
    assert_refused(&command, "attention", "position");
    init_kv_fixture(&f);
    f.batch.rows = 4;
    assert_refused(&command, "attention", "rows");
}

static void test_command_refuses_contradicting_views(void **state) {
    (void)state;
    struct kv_fixture f;
    init_kv_fixture(&f);
    struct command command = attention(&f);
    command.attention.heads = 3;
    assert_refused(&command, "attention", "heads");
    static const int bad_sizes[] = {0, 4, 12, 512};
    for (size_t i = 0; i < ARRAY_LEN(bad_sizes); i++) {
        command = attention(&f);
        command.attention.kv.block_size = bad_sizes[i];
        assert_refused(&command, "attention", "block_size");
    }
    command = attention(&f);
    command.attention.kv.value_offset_bytes = KEY_BYTES - 2;
    assert_refused(&command, "attention", "overlaps");
    command.attention.kv.value_offset_bytes = BLOCK_BYTES - VALUE_BYTES + 2;
    assert_refused(&command, "attention", "block");
    command.attention.kv.value_offset_bytes = VALUE_AT + 1;
    assert_refused(&command, "attention", "multiples");
    command = attention(&f);
    command.attention.kv.type = DTYPE_Q8_0;
    assert_refused(&command, "attention", "type");
    command = attention(&f);
    command.attention.kv.block_bytes = SIZE_MAX - 1;
    assert_refused(&command, "attention", "overflows");
}

struct state_fixture {
    struct batch_mark marks[2];
    struct batch_sequence sequences[2];
    struct batch batch;
};

static void init_state_fixture(struct state_fixture *f) {
    *f = (struct state_fixture){.marks = {{0, 3}, {1, 4}}};
    f->sequences[0] =
        (struct batch_sequence){.rows = 2, .state_slot = 1, .marks = f->marks, .mark_count = 2};
    f->sequences[1] = (struct batch_sequence){.rows = 1, .state_slot = 0};
    f->batch =
        (struct batch){.layout = {.sequences = f->sequences, .sequence_count = 2}, .rows = 3};
}

static struct command conv1d(const struct state_fixture *f) {
    return (struct command){.kind = COMMAND_CONV1D,
                            .conv1d = {.batch = &f->batch,
                                       .state = {&pool, 256, 16},
                                       .channels = 5,
                                       .taps = 4,
                                       .weight = at(0),
                                       .in = at(100),
                                       .in_stride = 5,
                                       .out = at(200),
                                       .out_stride = 5}};
}

static void test_command_visits_running_slots_and_marks(void **state) {
    (void)state;
    struct state_fixture f;
    init_state_fixture(&f);
    struct command command = conv1d(&f);
    struct visited visited = visit(&command);
    assert_int_equal(visited.count, 7);
    assert_range(&visited, 3, "state", 1 * 256 + 16, 60, 1);
    assert_range(&visited, 4, "mark", 3 * 256 + 16, 60, 1);
    assert_range(&visited, 5, "mark", 4 * 256 + 16, 60, 1);
    assert_range(&visited, 6, "state", 0 * 256 + 16, 60, 1);
}

static void test_command_refuses_slots_written_twice(void **state) {
    (void)state;
    static const int clashes[][4] = {/* running slots of both, marks of the first */
                                     {1, 1, 3, 4}, {1, 0, 1, 4},  {1, 0, 3, 3},
                                     {1, 3, 3, 4}, {1, -1, 3, 4}, {1, 0, -1, 4}};
    struct state_fixture f;
    for (size_t i = 0; i < ARRAY_LEN(clashes); i++) {
        init_state_fixture(&f);
        f.sequences[0].state_slot = clashes[i][0];
        f.sequences[1].state_slot = clashes[i][1];
        f.marks[0].slot = clashes[i][2];
        f.marks[1].slot = clashes[i][3];
        struct command command = conv1d(&f);
        assert_refused(&command, "conv1d", "slot");
    }
}

static void test_command_checks_recurrent_sizes(void **state) {
    (void)state;
    struct state_fixture f;
    init_state_fixture(&f);
    struct command command = conv1d(&f);
    command.conv1d.taps = 9;
    assert_refused(&command, "conv1d", "taps");
    command.conv1d.taps = 1;
    assert_refused(&command, "conv1d", "taps");
    command = conv1d(&f);
    command.conv1d.state.slot_bytes = 72;
    assert_refused(&command, "conv1d", "state");
    command = conv1d(&f);
    command.conv1d.out = command.conv1d.in;
    assert_refused(&command, "conv1d", "overlaps");
    struct command scan = {.kind = COMMAND_SSM_SCAN,
                           .ssm_scan = {.batch = &f.batch,
                                        .state = {&pool, 1024, 0},
                                        .heads = 3,
                                        .head_size = 4,
                                        .state_size = 8,
                                        .groups = 2,
                                        .x = at(0),
                                        .x_stride = 12,
                                        .b = at(100),
                                        .b_stride = 16,
                                        .c = at(200),
                                        .c_stride = 16,
                                        .dt = at(300),
                                        .dt_stride = 4,
                                        .dt_bias = at(400),
                                        .a = at(410),
                                        .d = at(420),
                                        .out = at(500),
                                        .out_stride = 12}};
    assert_refused(&scan, "ssm_scan", "groups");
    scan.ssm_scan.groups = 3;
    scan.ssm_scan.b_stride = 24;
    scan.ssm_scan.c_stride = 24;
    assert_int_equal(command_check(&scan), ERR_OK);
    scan.ssm_scan.state_size = INT_MAX;
    scan.ssm_scan.head_size = INT_MAX;
    scan.ssm_scan.heads = INT_MAX;
    scan.ssm_scan.groups = 1;
    assert_refused(&scan, "ssm_scan", "state");
}

static void test_command_checks_pool_copies(void **state) {
    (void)state;
    struct op_kv_segment segments[] = {{0, 4, 1}, {128, 2, 3}};
    struct command command = {.kind = COMMAND_KV_COPY_TAIL,
                              .kv_copy_tail = {.pool = &pool,
                                               .block_bytes = 256,
                                               .block_size = 8,
                                               .type = DTYPE_F16,
                                               .segments = segments,
                                               .segment_count = 2,
                                               .from = 1,
                                               .to = 2,
                                               .tokens = 3}};
    struct visited visited = visit(&command);
    assert_int_equal(visited.count, 4);
    assert_range(&visited, 0, "from", 256, 64, 0);
    assert_range(&visited, 1, "to", 512, 64, 1);
    assert_range(&visited, 2, "from", 256 + 128, 96, 0);
    assert_range(&visited, 3, "to", 512 + 128, 96, 1);
    command.kv_copy_tail.tokens = 9;
    assert_refused(&command, "kv_copy_tail", "tokens");
    command.kv_copy_tail.tokens = 8;
    segments[1].offset_bytes = 62;
    assert_refused(&command, "kv_copy_tail", "overlap");
    segments[1].offset_bytes = 168;
    assert_refused(&command, "kv_copy_tail", "segment");
    segments[1].offset_bytes = 128;
    command.kv_copy_tail.to = (1 << 20) / 256;
    assert_refused(&command, "kv_copy_tail", "to");
    struct command clear = {.kind = COMMAND_STATE_CLEAR,
                            .state_clear = {.pool = &pool, .slot_bytes = 1 << 19, .slot = 1}};
    assert_int_equal(command_check(&clear), ERR_OK);
    clear.state_clear.slot = 2;
    assert_refused(&clear, "state_clear", "slot");
    clear.state_clear.slot = -1;
    assert_refused(&clear, "state_clear", "slot");
    struct command copy = {
        .kind = COMMAND_STATE_COPY,
        .state_copy = {.pool = &pool, .slot_bytes = 1 << 19, .from = 0, .to = 1}};
    assert_int_equal(command_check(&copy), ERR_OK);
    copy.state_copy.slot_bytes = SIZE_MAX / 2 + 2;
    assert_refused(&copy, "state_copy", "to");
}

static void test_command_checks_rope_and_gates(void **state) {
    (void)state;
    struct command rope = {.kind = COMMAND_ROPE,
                           .rope = {.rows = 2,
                                    .heads = 2,
                                    .head_size = 6,
                                    .pairs = 3,
                                    .table = at(0),
                                    .x = at(100),
                                    .x_stride = 12}};
    assert_int_equal(command_check(&rope), ERR_OK);
    rope.rope.pairs = 4;
    assert_refused(&rope, "rope", "pairs");
    struct command gated = {.kind = COMMAND_GATED_NORM,
                            .gated_norm = {.rows = 2,
                                           .columns = 9,
                                           .groups = 2,
                                           .in = at(0),
                                           .in_stride = 9,
                                           .gate = at(100),
                                           .gate_stride = 9,
                                           .out = at(0),
                                           .out_stride = 9}};
    assert_refused(&gated, "gated_norm", "groups");
    gated.gated_norm.groups = 3;
    assert_int_equal(command_check(&gated), ERR_OK);
    gated.gated_norm.out = at(100); /* the gate is not the input */
    assert_refused(&gated, "gated_norm", "gate");
    struct command swiglu = {.kind = COMMAND_SWIGLU,
                             .swiglu = {.rows = 2,
                                        .columns = 9,
                                        .gate = at(0),
                                        .gate_stride = 18,
                                        .up = at(9),
                                        .up_stride = 18,
                                        .out = at(9),
                                        .out_stride = 18}};
    assert_int_equal(command_check(&swiglu), ERR_OK);
    swiglu.swiglu.out = at(4);
    assert_refused(&swiglu, "swiglu", "overlaps");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_names_every_kind),
        cmocka_unit_test(test_command_visits_strided_rows_one_by_one),
        cmocka_unit_test(test_command_refuses_sizes_that_contradict),
        cmocka_unit_test(test_command_keeps_within_buffers),
        cmocka_unit_test(test_command_knows_which_operands_may_be_one),
        cmocka_unit_test(test_command_checks_products),
        cmocka_unit_test(test_command_refuses_unknown_tokens_and_rows),
        cmocka_unit_test(test_command_visits_blocks_that_are_read),
        cmocka_unit_test(test_command_visits_only_blocks_that_are_written),
        cmocka_unit_test(test_command_refuses_batches_that_blocks_do_not_cover),
        cmocka_unit_test(test_command_refuses_contradicting_views),
        cmocka_unit_test(test_command_visits_running_slots_and_marks),
        cmocka_unit_test(test_command_refuses_slots_written_twice),
        cmocka_unit_test(test_command_checks_recurrent_sizes),
        cmocka_unit_test(test_command_checks_pool_copies),
        cmocka_unit_test(test_command_checks_rope_and_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
