/*
 * The oracle against arithmetic done by hand and against functions in long double, and the
 * invariance that it must have of itself: how tokens are cut into batches changes nothing.
 */
#include "gpu/reference/reference.h"

#include "base/half.h"
#include "gpu/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A buffer of the tests: the front's part, then its memory. */
struct memory {
    struct device_buffer base;
    void *bytes;
};

/* A weight whose rows lie in plain memory. */
struct matrix {
    struct device_weight base;
    const uint8_t *data;
};

static void *resolve(void *context, struct device_ptr ptr) {
    (void)context;
    return (uint8_t *)((struct memory *)(void *)ptr.buffer)->bytes + ptr.offset_bytes;
}

static void weight_row(void *context, const struct device_weight *weight, int row, void *to) {
    (void)context;
    size_t bytes = dtype_bytes(weight->type, (size_t)weight->columns);
    const struct matrix *matrix = (const struct matrix *)(const void *)weight;
    memcpy(to, matrix->data + (size_t)row * bytes, bytes);
}

static void run(const struct command *command) {
    const struct reference_memory memory = {.resolve = resolve, .weight_row = weight_row};
    assert_int_equal(command_check(command), ERR_OK);
    assert_int_equal(reference_run(command, &memory), ERR_OK);
}

#define MEMORY(array)                                                                              \
    { .base = {.bytes = sizeof(array)}, .bytes = (array) }
#define AT(memory) device_ptr_at(&(memory).base, 0)

/* --- transcendental.h ------------------------------------------------------------------ */

static void test_reference_exp_is_within_its_bound(void **state) {
    (void)state;
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x42b00000u; bits += 251) { /* 0 to 88 */
        for (uint32_t sign = 0; sign <= 1; sign++) {
            float x = half_f32_of_bits(bits | sign << 31);
            if (x < -87.0f) {
                continue;
            }
            double want = exp((double)x); /* exact enough: an ulp of double */
            worst = fmax(worst, fabs((double)reference_exp(x) - want) / want);
        }
    }
    print_message("exp: %.3g\n", worst);
    assert_true(worst < 1.5e-7);
}

static void test_reference_exp_is_constant_outside(void **state) {
    (void)state;
    float low = reference_exp(-87.0f);
    float high = reference_exp(88.0f);
    assert_true(low > 0x1p-126f && high < INFINITY);
    assert_true(reference_exp(-88.0f) == low && reference_exp(-INFINITY) == low);
    assert_true(reference_exp(NAN) == low && reference_exp(-NAN) == low);
    assert_true(reference_exp(89.0f) == high && reference_exp(INFINITY) == high);
    assert_true(reference_exp(0.0f) == 1.0f && reference_exp(-0.0f) == 1.0f);
}

static void test_reference_log1p_is_within_its_bound(void **state) {
    (void)state;
    double worst = 0;
    for (uint32_t bits = 0x00800000u; bits <= 0x3f800000u; bits += 251) { /* 2^-126 to 1 */
        float u = half_f32_of_bits(bits);
        double want = log1p((double)u);
        worst = fmax(worst, fabs((double)reference_log1p(u) - want) / want);
    }
    print_message("log1p: %.3g\n", worst);
    assert_true(worst < 3e-7);
    assert_true(reference_log1p(0.0f) == 0.0f);
}

static void test_reference_gates_follow_their_formulas(void **state) {
    (void)state;
    for (float x = -80.0f; x <= 80.0f; x += 0.037f) {
        double wide = (double)x;
        double softplus = fmax(wide, 0) + log1p(exp(-fabs(wide)));
        double sigmoid = 1 / (1 + exp(-wide));
        assert_true(fabs((double)reference_softplus(x) - softplus) < 1e-6 * softplus);
        assert_true(fabs((double)reference_sigmoid(x) - sigmoid) < 1e-6 * sigmoid);
        assert_true(fabs((double)reference_silu(x) - wide * sigmoid) <=
                    1e-6 * fabs(wide * sigmoid));
    }
    assert_true(isnan(reference_silu(NAN)));
    assert_true(isinf(reference_silu(INFINITY)));
    assert_true(isinf(reference_softplus(INFINITY)));
}

/* --- rows -------------------------------------------------------------------------------- */

static void test_reference_rms_norm_by_hand(void **state) {
    (void)state;
    float x[] = {3, 4, 99, 0, 0, 99}; /* two rows of two, a stride of three */
    float weight[] = {2, 10};
    struct memory in = MEMORY(x);
    struct memory scale = MEMORY(weight);
    run(&(struct command){.kind = COMMAND_RMS_NORM,
                          .rms_norm = {.rows = 2,
                                       .columns = 2,
                                       .in = AT(in),
                                       .in_stride = 3,
                                       .weight = AT(scale),
                                       .eps = 12.5f, /* mean square 12.5: the root of 25 */
                                       .out = AT(in),
                                       .out_stride = 3}});
    float fifth = 1.0f / 5.0f;
    assert_true(x[0] == (3.0f * fifth) * 2.0f && x[1] == (4.0f * fifth) * 10.0f);
    assert_true(x[2] == 99 && x[3] == 0 && x[4] == 0 && x[5] == 99);
}

/* 2^24 in one partial sum swallows ones; spread over 16 and summed as a tree they survive. */
static void test_reference_rms_norm_sums_in_sixteen(void **state) {
    (void)state;
    float x[32];
    float weight[32];
    float out[32];
    for (int i = 0; i < 32; i++) {
        x[i] = i == 0 ? 4096.0f : 1.0f;
        weight[i] = 1.0f;
    }
    struct memory in = MEMORY(x);
    struct memory scale = MEMORY(weight);
    struct memory to = MEMORY(out);
    run(&(struct command){.kind = COMMAND_RMS_NORM,
                          .rms_norm = {.rows = 1,
                                       .columns = 32,
                                       .in = AT(in),
                                       .in_stride = 32,
                                       .weight = AT(scale),
                                       .out = AT(to),
                                       .out_stride = 32}});
    /* p[0] = 2^24 + 1 -> 2^24; p[i] = 2. Tree: p[0] + 2 + 4 + 8 + 16. */
    assert_true(out[0] == 4096.0f * (1.0f / sqrtf((0x1p+24f + 30.0f) / 32.0f)));
}

static void test_reference_gated_norm_by_hand(void **state) {
    (void)state;
    float x[] = {1, 2, 3, 4};
    float gate[] = {0, 1, 2, -1};
    float out[4];
    struct memory in = MEMORY(x);
    struct memory by = MEMORY(gate);
    struct memory to = MEMORY(out);
    struct command command = {.kind = COMMAND_GATED_NORM,
                              .gated_norm = {.rows = 1,
                                             .columns = 4,
                                             .groups = 2,
                                             .in = AT(in),
                                             .in_stride = 4,
                                             .gate = AT(by),
                                             .gate_stride = 4,
                                             .out = AT(to),
                                             .out_stride = 4}};
    run(&command);
    for (int i = 0; i < 4; i++) {
        assert_true(out[i] == x[i] * reference_silu(gate[i]));
    }
    float weight[] = {1, 1, 1, 1};
    struct memory scale = MEMORY(weight);
    command.gated_norm.weight = AT(scale);
    run(&command);
    /* The first group is (0, g): its root mean square is g / sqrt(2). */
    assert_true(out[0] == 0.0f);
    assert_true(fabsf(out[1] - sqrtf(2.0f)) < 1e-6f);
}

/* --- products ----------------------------------------------------------------------------- */

static void put_q8_0(uint8_t *block, float scale, const int8_t quants[32]) {
    uint16_t half = half_f32_to_f16(scale);
    memcpy(block, &half, sizeof half);
    memcpy(block + 2, quants, 32);
}

static void test_reference_matmul_by_hand(void **state) {
    (void)state;
    float weights[] = {1, 2, 3, -1, 0.5f, 4};
    float x[] = {10, 20, 30};
    float bias[] = {0.25f, -1};
    float out[] = {7, 8};
    struct matrix matrix = {.base = {.type = DTYPE_F32, .rows = 2, .columns = 3},
                            .data = (const uint8_t *)weights};
    struct memory in = MEMORY(x);
    struct memory add = MEMORY(bias);
    struct memory to = MEMORY(out);
    struct command command = {.kind = COMMAND_MATMUL,
                              .matmul = {.rows = 1,
                                         .in = AT(in),
                                         .in_stride = 3,
                                         .product_count = 1,
                                         .products = {{.weight = &matrix.base,
                                                       .bias = AT(add),
                                                       .out = AT(to),
                                                       .out_stride = 2,
                                                       .factor = 0.5f}}}};
    run(&command);
    assert_true(out[0] == 140.25f && out[1] == 119.0f);
    command.matmul.products[0].epilogue = OP_EPILOGUE_ADD;
    run(&command);
    assert_true(out[0] == 140.25f * 1.5f && out[1] == 119.0f * 1.5f);
    command.matmul.products[0].epilogue = OP_EPILOGUE_DIVIDE;
    run(&command);
    assert_true(out[0] == 280.5f && out[1] == 238.0f);
}

static void test_reference_matmul_quantises_rows(void **state) {
    (void)state;
    int8_t quants[32] = {1, -128, 127, 3};
    uint8_t weights[34];
    put_q8_0(weights, 0.5f, quants);
    /* Rows: largest 127, so that the scale is 1 and ties show; below the threshold; not finite. */
    float x[4][32] = {{127, 0.5f, 1.5f, 2.5f}, {0x1.fp-101f, 1e-38f}, {1, INFINITY}, {NAN, 2}};
    float out[4];
    struct matrix matrix = {.base = {.type = DTYPE_Q8_0, .rows = 1, .columns = 32},
                            .data = weights};
    struct memory in = MEMORY(x);
    struct memory to = MEMORY(out);
    run(&(struct command){
        .kind = COMMAND_MATMUL,
        .matmul = {.rows = 4,
                   .in = AT(in),
                   .in_stride = 32,
                   .product_count = 1,
                   .products = {{.weight = &matrix.base, .out = AT(to), .out_stride = 1}}}});
    /* 127 * 1 + 0 * -128 + 2 * 127 + 2 * 3 */
    assert_true(out[0] == 387 * 0.5f);
    assert_true(out[1] == 0.0f);
    assert_true(isnan(out[2]) && isnan(out[3]));
}

/* --- batches ------------------------------------------------------------------------------- */

/* A batch of one sequence; the caller keeps what SEQUENCE points at. */
static struct batch one_sequence(const struct batch_sequence *sequence) {
    return (struct batch){.layout = {.sequences = sequence, .sequence_count = 1},
                          .rows = sequence->rows};
}

static void test_reference_embeds_and_gathers(void **state) {
    (void)state;
    int8_t quants[2][32] = {{1, 2, -3}, {100, -100, 7}};
    uint8_t weights[68];
    put_q8_0(weights, 2.0f, quants[0]);
    put_q8_0(weights + 34, 0.25f, quants[1]);
    struct matrix matrix = {.base = {.type = DTYPE_Q8_0, .rows = 2, .columns = 32},
                            .data = weights};
    int32_t tokens[] = {1, 0};
    int32_t output_rows[] = {1, 1, 0};
    struct batch_sequence sequence = {.rows = 2, .state_slot = -1};
    struct batch batch = one_sequence(&sequence);
    batch.layout.tokens = tokens;
    batch.layout.output_rows = output_rows;
    batch.layout.output_count = 3;
    float out[64];
    float gathered[96];
    struct memory to = MEMORY(out);
    struct memory rows = MEMORY(gathered);
    run(&(struct command){
        .kind = COMMAND_EMBED,
        .embed = {.batch = &batch, .weight = &matrix.base, .scale = 3.0f, .out = AT(to)}});
    assert_true(out[0] == 75 && out[1] == -75 && out[32] == 6 && out[34] == -18);
    run(&(struct command){
        .kind = COMMAND_GATHER_ROWS,
        .gather_rows = {.batch = &batch, .in = AT(to), .columns = 32, .out = AT(rows)}});
    assert_true(gathered[0] == 6 && gathered[32] == 6 && gathered[64] == 75);
}

static void test_reference_rope_turns_pairs(void **state) {
    (void)state;
    struct batch_sequence sequence = {.rows = 2, .position = 3, .state_slot = -1};
    struct batch batch = one_sequence(&sequence);
    double frequencies[] = {1.0, 0.5};
    float table[8];
    struct memory from = MEMORY(frequencies);
    struct memory to = MEMORY(table);
    run(&(struct command){
        .kind = COMMAND_ROPE_TABLE,
        .rope_table = {.batch = &batch, .frequencies = AT(from), .pairs = 2, .table = AT(to)}});
    assert_true(table[0] == (float)cos(3.0) && table[1] == (float)sin(3.0));
    assert_true(table[6] == (float)cos(2.0) && table[7] == (float)sin(2.0));
    /* A quarter turn, written by hand: (a, b) becomes (-b, a). */
    float quarter[] = {0, 1, 1, 0};
    float x[] = {1, 2, 3, 4, 5};
    struct memory turn = MEMORY(quarter);
    struct memory on = MEMORY(x);
    struct command command = {.kind = COMMAND_ROPE,
                              .rope = {.rows = 1,
                                       .heads = 1,
                                       .head_size = 5,
                                       .pairs = 2,
                                       .style = OP_ROPE_NEIGHBOURS,
                                       .table = AT(turn),
                                       .x = AT(on),
                                       .x_stride = 5}};
    run(&command);
    assert_true(x[0] == -2 && x[1] == 1 && x[2] == 3 && x[3] == 4 && x[4] == 5);
    command.rope.style = OP_ROPE_HALVES;
    run(&command);
    assert_true(x[0] == -3 && x[1] == 1 && x[2] == -2 && x[3] == 4 && x[4] == 5);
}

enum { BLOCK = 8, KEY = 3, VALUE = 2, KV_HEADS = 2, HEADS = 4, TOKENS = 41, POOL_BLOCKS = 7 };

struct attention_run {
    float pool[POOL_BLOCKS][KV_HEADS * BLOCK * (KEY + VALUE)];
    float query[TOKENS][HEADS * KEY];
    float key[TOKENS][KV_HEADS * KEY];
    float value[TOKENS][KV_HEADS * VALUE];
    float out[TOKENS][HEADS * VALUE];
};

static const int32_t scattered_blocks[] = {4, 0, 6, 1, 5, 2};

static struct attention_run *new_attention_run(void) {
    struct attention_run *r = malloc(sizeof *r);
    assert_non_null(r);
    memset(r, 0xff, sizeof *r); /* NaN wherever nothing is written */
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < HEADS * KEY; i++) {
            r->query[t][i] = sinf((float)(t * 31 + i * 7));
        }
        for (int i = 0; i < KV_HEADS * KEY; i++) {
            r->key[t][i] = cosf((float)(t * 17 + i * 5)) * 3.0f;
        }
        for (int i = 0; i < KV_HEADS * VALUE; i++) {
            r->value[t][i] = sinf((float)(t * 3 + i)) + 2.0f;
        }
    }
    return r;
}

/* Writes and attends tokens [begin, end). */
static void attend(struct attention_run *r, int begin, int end) {
    struct batch_sequence sequence = {.rows = end - begin,
                                      .position = begin,
                                      .state_slot = -1,
                                      .block_table = scattered_blocks,
                                      .blocks = (end + BLOCK - 1) / BLOCK};
    struct batch batch = one_sequence(&sequence);
    struct memory pool = MEMORY(r->pool);
    struct memory query = MEMORY(r->query);
    struct memory key = MEMORY(r->key);
    struct memory value = MEMORY(r->value);
    struct memory out = MEMORY(r->out);
    size_t row = (size_t)begin;
    struct op_kv_view view = {.pool = &pool.base,
                              .block_bytes = sizeof r->pool[0],
                              .value_offset_bytes = KV_HEADS * KEY * BLOCK * sizeof(float),
                              .block_size = BLOCK,
                              .kv_heads = KV_HEADS,
                              .key_size = KEY,
                              .value_size = VALUE,
                              .type = DTYPE_F32};
    run(&(struct command){
        .kind = COMMAND_KV_WRITE,
        .kv_write = {.batch = &batch,
                     .kv = view,
                     .key = device_ptr_at(&key.base, row * sizeof r->key[0]),
                     .key_stride = KV_HEADS * KEY,
                     .value = device_ptr_at(&value.base, row * sizeof r->value[0]),
                     .value_stride = KV_HEADS * VALUE}});
    run(&(struct command){
        .kind = COMMAND_ATTENTION,
        .attention = {.batch = &batch,
                      .kv = view,
                      .heads = HEADS,
                      .scale = 0.5f,
                      .query = device_ptr_at(&query.base, row * sizeof r->query[0]),
                      .query_stride = HEADS * KEY,
                      .out = device_ptr_at(&out.base, row * sizeof r->out[0]),
                      .out_stride = HEADS * VALUE}});
}

/* Softmax over all earlier tokens in double. */
static double expected_attention(const struct attention_run *r, int t, int head, int d) {
    int kv_head = head / (HEADS / KV_HEADS);
    double sum = 0;
    double weighted = 0;
    for (int j = 0; j <= t; j++) {
        double dot = 0;
        for (int i = 0; i < KEY; i++) {
            dot += (double)r->query[t][head * KEY + i] * (double)r->key[j][kv_head * KEY + i];
        }
        double weight = exp(0.5 * dot);
        sum += weight;
        weighted += weight * (double)r->value[j][kv_head * VALUE + d];
    }
    return weighted / sum;
}

static void test_reference_attention_is_a_softmax(void **state) {
    (void)state;
    struct attention_run *r = new_attention_run();
    attend(r, 0, TOKENS);
    for (int t = 0; t < TOKENS; t++) {
        for (int i = 0; i < HEADS * VALUE; i++) {
            double want = expected_attention(r, t, i / VALUE, i % VALUE);
            assert_true(fabs((double)r->out[t][i] - want) < 1e-5);
        }
    }
    assert_true(r->out[0][0] == r->value[0][0]); /* one token: itself, exactly */
    free(r);
}

static void test_reference_attention_does_not_see_chunks(void **state) {
    (void)state;
    struct attention_run *whole = new_attention_run();
    struct attention_run *cut = new_attention_run();
    attend(whole, 0, TOKENS);
    attend(cut, 0, 5);
    attend(cut, 5, 33);
    for (int t = 33; t < TOKENS; t++) {
        attend(cut, t, t + 1);
    }
    assert_memory_equal(whole, cut, sizeof *whole);
    free(whole);
    free(cut);
}

/* --- recurrence ------------------------------------------------------------------------------ */

static void test_reference_conv1d_by_hand(void **state) {
    (void)state;
    float pool[3][2] = {{NAN, NAN}, {1, 2}, {NAN, NAN}}; /* one channel, three taps */
    float weight[] = {100, 10, 1};
    float bias[] = {0.5f};
    float x[] = {3, 4};
    float out[2];
    struct batch_mark mark = {.row = 0, .slot = 2};
    struct batch_sequence sequence = {.rows = 2, .state_slot = 1, .marks = &mark, .mark_count = 1};
    struct batch batch = one_sequence(&sequence);
    struct memory slots = MEMORY(pool);
    struct memory taps = MEMORY(weight);
    struct memory add = MEMORY(bias);
    struct memory in = MEMORY(x);
    struct memory to = MEMORY(out);
    run(&(struct command){.kind = COMMAND_CONV1D,
                          .conv1d = {.batch = &batch,
                                     .state = {.pool = &slots.base, .slot_bytes = 8},
                                     .channels = 1,
                                     .taps = 3,
                                     .weight = AT(taps),
                                     .bias = AT(add),
                                     .in = AT(in),
                                     .in_stride = 1,
                                     .out = AT(to),
                                     .out_stride = 1}});
    assert_true(out[0] == reference_silu(123.5f) && out[1] == reference_silu(234.5f));
    assert_true(pool[1][0] == 3 && pool[1][1] == 4); /* advanced */
    assert_true(pool[2][0] == 2 && pool[2][1] == 3); /* as after row 0 */
    assert_true(isnan(pool[0][0]));
}

enum { STEPS = 6, SSM_HEADS = 2, HEAD_SIZE = 2, STATE_SIZE = 5 };

struct scan_run {
    float pool[4][SSM_HEADS * STATE_SIZE * HEAD_SIZE];
    float x[STEPS][SSM_HEADS * HEAD_SIZE];
    float b[STEPS][STATE_SIZE];
    float c[STEPS][STATE_SIZE];
    float dt[STEPS][SSM_HEADS];
    float out[STEPS][SSM_HEADS * HEAD_SIZE];
};

static float decay[SSM_HEADS] = {-1.0f, -0.25f};
static float skip_factor[SSM_HEADS] = {0.5f, 2.0f};
static float dt_bias[SSM_HEADS] = {0.125f, -0.5f};

static void init_scan_run(struct scan_run *r) {
    memset(r, 0, sizeof *r);
    for (int t = 0; t < STEPS; t++) {
        for (int i = 0; i < SSM_HEADS * HEAD_SIZE; i++) {
            r->x[t][i] = cosf((float)(t * 5 + i));
        }
        for (int n = 0; n < STATE_SIZE; n++) {
            r->b[t][n] = sinf((float)(t + n * 3));
            r->c[t][n] = cosf((float)(t * 2 + n));
        }
        r->dt[t][0] = 0.3f * (float)t - 1.0f;
        r->dt[t][1] = 0.1f;
    }
}

/* Runs tokens [begin, end) from slot 1; MARK, unless it is -1, is the token after which the state
 * goes to slot 3. */
static void scan(struct scan_run *r, int begin, int end, int marked_token) {
    struct batch_mark mark = {.row = marked_token - begin, .slot = 3};
    struct batch_sequence sequence = {.rows = end - begin,
                                      .position = begin,
                                      .state_slot = 1,
                                      .marks = &mark,
                                      .mark_count = marked_token >= begin && marked_token < end};
    struct batch batch = one_sequence(&sequence);
    struct memory all = {.base = {.bytes = sizeof *r}, .bytes = r};
    struct memory pool = MEMORY(r->pool);
    struct memory a = MEMORY(decay);
    struct memory d = MEMORY(skip_factor);
    struct memory bias = MEMORY(dt_bias);
    size_t row = (size_t)begin;
    run(&(struct command){
        .kind = COMMAND_SSM_SCAN,
        .ssm_scan = {
            .batch = &batch,
            .state = {.pool = &pool.base, .slot_bytes = sizeof r->pool[0]},
            .heads = SSM_HEADS,
            .head_size = HEAD_SIZE,
            .state_size = STATE_SIZE,
            .groups = 1,
            .x = device_ptr_at(&all.base, offsetof(struct scan_run, x) + row * sizeof r->x[0]),
            .x_stride = SSM_HEADS * HEAD_SIZE,
            .b = device_ptr_at(&all.base, offsetof(struct scan_run, b) + row * sizeof r->b[0]),
            .b_stride = STATE_SIZE,
            .c = device_ptr_at(&all.base, offsetof(struct scan_run, c) + row * sizeof r->c[0]),
            .c_stride = STATE_SIZE,
            .dt = device_ptr_at(&all.base, offsetof(struct scan_run, dt) + row * sizeof r->dt[0]),
            .dt_stride = SSM_HEADS,
            .dt_bias = AT(bias),
            .a = AT(a),
            .d = AT(d),
            .out =
                device_ptr_at(&all.base, offsetof(struct scan_run, out) + row * sizeof r->out[0]),
            .out_stride = SSM_HEADS * HEAD_SIZE}});
}

static void test_reference_ssm_scan_follows_the_recurrence(void **state) {
    (void)state;
    struct scan_run r;
    init_scan_run(&r);
    scan(&r, 0, STEPS, -1);
    for (int i = 0; i < SSM_HEADS * HEAD_SIZE; i++) {
        int head = i / HEAD_SIZE;
        double s[STATE_SIZE] = {0};
        for (int t = 0; t < STEPS; t++) {
            double dt = log1p(exp((double)(r.dt[t][head] + dt_bias[head])));
            double y = 0;
            for (int n = 0; n < STATE_SIZE; n++) {
                s[n] = s[n] * exp(dt * (double)decay[head]) +
                       (double)r.b[t][n] * dt * (double)r.x[t][i];
                y += (double)r.c[t][n] * s[n];
            }
            y += (double)skip_factor[head] * (double)r.x[t][i];
            assert_true(fabs((double)r.out[t][i] - y) < 1e-5);
        }
        for (int n = 0; n < STATE_SIZE; n++) {
            int at = (head * STATE_SIZE + n) * HEAD_SIZE + i % HEAD_SIZE;
            assert_true(fabs((double)r.pool[1][at] - s[n]) < 1e-5);
        }
    }
}

static void test_reference_ssm_scan_does_not_see_chunks(void **state) {
    (void)state;
    struct scan_run whole;
    struct scan_run cut;
    init_scan_run(&whole);
    init_scan_run(&cut);
    scan(&whole, 0, STEPS, 3);
    scan(&cut, 0, 4, -1);
    memcpy(cut.pool[3], cut.pool[1], sizeof cut.pool[1]); /* what the mark must have kept */
    scan(&cut, 4, 5, -1);
    scan(&cut, 5, STEPS, -1);
    assert_memory_equal(&whole, &cut, sizeof whole);
}

/* --- pools -------------------------------------------------------------------------------------
 */

static void test_reference_copies_tails_and_slots(void **state) {
    (void)state;
    uint16_t pool[2][16]; /* K [1][8], then V [8][1] */
    struct op_kv_segment segments[] = {{0, 1, 1}, {16, 1, 1}};
    for (int i = 0; i < 16; i++) {
        pool[0][i] = (uint16_t)(i + 1);
        pool[1][i] = 0xffff;
    }
    struct memory blocks = MEMORY(pool);
    run(&(struct command){.kind = COMMAND_KV_COPY_TAIL,
                          .kv_copy_tail = {.pool = &blocks.base,
                                           .block_bytes = 32,
                                           .block_size = 8,
                                           .type = DTYPE_F16,
                                           .segments = segments,
                                           .segment_count = 2,
                                           .from = 0,
                                           .to = 1,
                                           .tokens = 3}});
    const uint16_t want[16] = {1, 2, 3, 0, 0, 0, 0, 0, 9, 10, 11, 0, 0, 0, 0, 0};
    assert_memory_equal(pool[1], want, sizeof want);
    run(&(struct command){
        .kind = COMMAND_STATE_COPY,
        .state_copy = {.pool = &blocks.base, .slot_bytes = 8, .from = 0, .to = 7}});
    assert_memory_equal(&pool[1][12], &pool[0][0], 8);
    run(&(struct command){.kind = COMMAND_STATE_CLEAR,
                          .state_clear = {.pool = &blocks.base, .slot_bytes = 8, .slot = 0}});
    assert_true(pool[0][0] == 0 && pool[0][3] == 0 && pool[0][4] == 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_exp_is_within_its_bound),
        cmocka_unit_test(test_reference_exp_is_constant_outside),
        cmocka_unit_test(test_reference_log1p_is_within_its_bound),
        cmocka_unit_test(test_reference_gates_follow_their_formulas),
        cmocka_unit_test(test_reference_rms_norm_by_hand),
        cmocka_unit_test(test_reference_rms_norm_sums_in_sixteen),
        cmocka_unit_test(test_reference_gated_norm_by_hand),
        cmocka_unit_test(test_reference_matmul_by_hand),
        cmocka_unit_test(test_reference_matmul_quantises_rows),
        cmocka_unit_test(test_reference_embeds_and_gathers),
        cmocka_unit_test(test_reference_rope_turns_pairs),
        cmocka_unit_test(test_reference_attention_is_a_softmax),
        cmocka_unit_test(test_reference_attention_does_not_see_chunks),
        cmocka_unit_test(test_reference_conv1d_by_hand),
        cmocka_unit_test(test_reference_ssm_scan_follows_the_recurrence),
        cmocka_unit_test(test_reference_ssm_scan_does_not_see_chunks),
        cmocka_unit_test(test_reference_copies_tails_and_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
