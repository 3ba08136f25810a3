/*
 * Prints how fast each op of a small hybrid model (hidden 768, 48 recurrent
 * heads of 32, state 128, feed forward 2,048, vocabulary 100,352, Q8_0) runs
 * through the device interface, for some row counts and ISAs. Up to 8 rows are
 * sequences of one token each (decode), more are one sequence (prefill). Matrix
 * products cycle through more copies of a weight than caches hold.
 *
 *   bench_kernels [THREADS [ISA ...]]      default: one a processor, every ISA
 */
#include "base/half.h"
#include "base/now.h"
#include "gpu/op.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    HIDDEN = 768,
    INNER = 1536,
    IN_PROJECTION = 3376,
    FEED_FORWARD = 2048,
    VOCABULARY = 100352,
    SSM_HEADS = 48,
    SSM_HEAD_SIZE = 32,
    SSM_STATE = 128,
    CONV_CHANNELS = 1792,
    CONV_TAPS = 4,
    HEADS = 12,
    KV_HEADS = 4,
    HEAD_SIZE = 64,
    BLOCK_SIZE = 32,
    CONTEXT_MAX = 8192,
    ROWS_MAX = 128,
    DECODE_ROWS_MAX = 8,
    WEIGHT_BYTES_MIN = 96 << 20, /* what the copies of one weight take together */
    COPIES_MAX = 128,
    REGION_VALUES = ROWS_MAX * 4096, /* of activations, one region an operand */
    REGIONS = 8,
};

#define SLOT_BYTES ((size_t)SSM_HEADS * SSM_HEAD_SIZE * SSM_STATE * 4)
#define KEY_BYTES ((size_t)KV_HEADS * HEAD_SIZE * BLOCK_SIZE * 2)
#define BLOCK_BYTES (2 * KEY_BYTES)
#define STATE_LAYERS 28 /* so that decode finds no state in caches */

struct bench {
    struct device *device;
    struct device_stream *stream;
    struct device_buffer *values;
    struct device_buffer *states;
    struct device_buffer *blocks;
    struct batch *batch;
    int rows;
};

static void check(enum err err, const char *what) {
    if (err != ERR_OK) {
        fprintf(stderr, "%s: %s\n", what, err_message());
        exit(1);
    }
}

static struct device_ptr region(const struct bench *bench, int index) {
    return device_ptr_at(bench->values, (size_t)index * REGION_VALUES * sizeof(float));
}

static float random_value(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (float)(int32_t)*seed * 0x1p-31f;
}

/* --- timing -------------------------------------------------------------------------- */

typedef void enqueue_fn(struct bench *bench, void *context, int round);

/* Microseconds of one round: the fastest of many short runs, since other work on the machine
 * disturbs some of them. */
static double time_rounds(struct bench *bench, enqueue_fn *enqueue, void *context) {
    enum { RUNS_MIN = 12 };
    const double run_us = 1000;
    const double total_us = 200e3;
    double best_us = INFINITY;
    double spent_us = 0;
    int rounds = 1;
    int round = 0;
    for (int run = 0; run < RUNS_MIN || spent_us < total_us; run++) {
        uint64_t start_ns = now_monotonic_ns();
        for (int i = 0; i < rounds; i++) {
            enqueue(bench, context, round++);
        }
        check(device_stream_wait_idle(bench->stream), "wait");
        double took_us = (double)(now_monotonic_ns() - start_ns) * 1e-3;
        best_us = took_us / rounds < best_us ? took_us / rounds : best_us;
        spent_us += took_us;
        rounds = best_us * 2 < run_us ? (int)(run_us / best_us) : 1;
    }
    return best_us;
}

static void print_line(const struct bench *bench, const char *name, double us, double operations,
                       double bytes) {
    printf("  %-22s %4d rows %10.1f us %9.1f Gop/s %7.1f GB/s\n", name, bench->rows, us,
           operations / us * 1e-3, bytes / us * 1e-3);
    fflush(stdout);
}

/* --- batches ------------------------------------------------------------------------- */

/* ROWS rows at the end of CONTEXT tokens: up to DECODE_ROWS_MAX sequences, else one. */
static void set_batch(struct bench *bench, int rows, int context) {
    static int32_t table[CONTEXT_MAX / BLOCK_SIZE];
    static int32_t tokens[ROWS_MAX];
    struct batch_sequence sequences[DECODE_ROWS_MAX];
    int is_decode = rows <= DECODE_ROWS_MAX;
    int count = is_decode ? rows : 1;
    for (int i = 0; i < context / BLOCK_SIZE; i++) {
        table[i] = i;
    }
    for (int i = 0; i < count; i++) {
        sequences[i] = (struct batch_sequence){
            .rows = is_decode ? 1 : rows,
            .position = context - (is_decode ? 1 : rows),
            .state_slot = i,
            .block_table = table,
            .blocks = context / BLOCK_SIZE,
        };
    }
    struct batch_layout layout = {
        .sequences = sequences, .sequence_count = count, .tokens = tokens};
    check(device_stream_wait_idle(bench->stream), "wait");
    check(batch_set(bench->batch, bench->stream, &layout), "batch_set");
    bench->rows = rows;
}

/* --- products ------------------------------------------------------------------------ */

struct product_case {
    const char *name;
    enum dtype type;
    int out;
    int in;
    int products; /* that share the input */
    struct device_weight *copies[COPIES_MAX];
    int copy_count;
};

static void create_copies(struct bench *bench, struct product_case *c) {
    size_t row_bytes = dtype_bytes(c->type, (size_t)c->in);
    size_t bytes = row_bytes * (size_t)c->out;
    uint8_t *data = malloc(bytes);
    if (data == NULL) {
        check(err_fail(ERR_NOMEM, "%zu bytes", bytes), "weights");
    }
    uint32_t seed = 1;
    for (size_t i = 0; i < bytes; i += 2) {
        uint16_t half = half_f32_to_f16(random_value(&seed));
        memcpy(data + i, &half, 2);
    }
    int wanted = (int)(WEIGHT_BYTES_MIN / bytes) + 1;
    wanted = (wanted + c->products - 1) / c->products * c->products;
    c->copy_count = wanted < COPIES_MAX ? wanted : COPIES_MAX;
    for (int i = 0; i < c->copy_count; i++) {
        struct device_weight_params params = {c->type, c->out, c->in, data};
        check(device_weight_create(bench->device, &params, &c->copies[i]), "weight");
    }
    free(data);
}

static void enqueue_product(struct bench *bench, void *context, int round) {
    struct product_case *c = context;
    struct op_matmul op = {.rows = bench->rows,
                           .in = region(bench, 0),
                           .in_stride = (size_t)c->in,
                           .product_count = c->products};
    for (int i = 0; i < c->products; i++) {
        op.products[i] = (struct op_product){
            .weight = c->copies[(round * c->products + i) % c->copy_count],
            .out = region(bench, 1 + i),
            .out_stride = (size_t)c->out,
        };
    }
    check(op_matmul(bench->stream, &op), c->name);
}

static void enqueue_head(struct bench *bench, void *context, int round) {
    struct product_case *c = context;
    (void)round;
    struct op_matmul op = {.rows = bench->rows,
                           .in = region(bench, 0),
                           .in_stride = (size_t)c->in,
                           .product_count = 1};
    op.products[0] = (struct op_product){
        .weight = c->copies[0], .out = region(bench, 1), .out_stride = (size_t)c->out};
    check(op_matmul(bench->stream, &op), c->name);
}

static void bench_product(struct bench *bench, struct product_case c) {
    static const int row_counts[] = {1, 8, 64, 128};
    create_copies(bench, &c);
    for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
        int is_head = c.out == VOCABULARY;
        if (is_head && row_counts[i] > DECODE_ROWS_MAX) {
            continue;
        }
        bench->rows = row_counts[i];
        double us = time_rounds(bench, is_head ? enqueue_head : enqueue_product, &c);
        double values = (double)c.out * c.in * c.products;
        double bytes = (double)dtype_bytes(c.type, (size_t)c.in) * c.out * c.products;
        print_line(bench, c.name, us, 2 * values * bench->rows, bytes);
    }
    for (int i = 0; i < c.copy_count; i++) {
        device_weight_destroy(c.copies[i]);
    }
}

static void bench_products(struct bench *bench) {
    bench_product(bench,
                  (struct product_case){
                      "in projection Q8_0", DTYPE_Q8_0, IN_PROJECTION, HIDDEN, 1, {NULL}, 0});
    bench_product(bench, (struct product_case){
                             "out projection Q8_0", DTYPE_Q8_0, HIDDEN, INNER, 1, {NULL}, 0});
    bench_product(bench, (struct product_case){
                             "gate and up Q8_0", DTYPE_Q8_0, FEED_FORWARD, HIDDEN, 2, {NULL}, 0});
    bench_product(
        bench, (struct product_case){"down Q8_0", DTYPE_Q8_0, HIDDEN, FEED_FORWARD, 1, {NULL}, 0});
    bench_product(bench, (struct product_case){
                             "vocabulary Q8_0", DTYPE_Q8_0, VOCABULARY, HIDDEN, 1, {NULL}, 0});
    bench_product(bench, (struct product_case){
                             "in projection F16", DTYPE_F16, IN_PROJECTION, HIDDEN, 1, {NULL}, 0});
    bench_product(bench,
                  (struct product_case){
                      "in projection BF16", DTYPE_BF16, IN_PROJECTION, HIDDEN, 1, {NULL}, 0});
    bench_product(bench, (struct product_case){
                             "in projection F32", DTYPE_F32, IN_PROJECTION, HIDDEN, 1, {NULL}, 0});
}

/* --- the other ops ------------------------------------------------------------------- */

static void enqueue_ssm_scan(struct bench *bench, void *context, int round) {
    (void)context;
    size_t offset = (size_t)(round % STATE_LAYERS) * SLOT_BYTES;
    struct op_ssm_scan op = {
        .batch = bench->batch,
        .state = {bench->states, STATE_LAYERS * SLOT_BYTES, offset},
        .heads = SSM_HEADS,
        .head_size = SSM_HEAD_SIZE,
        .state_size = SSM_STATE,
        .groups = 1,
        .x = region(bench, 0),
        .x_stride = IN_PROJECTION,
        .b = device_ptr_add(region(bench, 0), INNER * sizeof(float)),
        .b_stride = IN_PROJECTION,
        .c = device_ptr_add(region(bench, 0), (INNER + SSM_STATE) * sizeof(float)),
        .c_stride = IN_PROJECTION,
        .dt = region(bench, 1),
        .dt_stride = SSM_HEADS,
        .dt_bias = region(bench, 2),
        .a = region(bench, 7),
        .d = region(bench, 3),
        .out = region(bench, 4),
        .out_stride = INNER,
    };
    check(op_ssm_scan(bench->stream, &op), "ssm_scan");
}

static void enqueue_conv1d(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_conv1d op = {
        .batch = bench->batch,
        .state = {bench->states, STATE_LAYERS * SLOT_BYTES, 0},
        .channels = CONV_CHANNELS,
        .taps = CONV_TAPS,
        .weight = region(bench, 2),
        .bias = region(bench, 3),
        .in = region(bench, 0),
        .in_stride = IN_PROJECTION,
        .out = region(bench, 4),
        .out_stride = CONV_CHANNELS,
    };
    check(op_conv1d(bench->stream, &op), "conv1d");
}

static struct op_kv_view kv_view(const struct bench *bench) {
    return (struct op_kv_view){bench->blocks, BLOCK_BYTES, 0,         KEY_BYTES, BLOCK_SIZE,
                               KV_HEADS,      HEAD_SIZE,   HEAD_SIZE, DTYPE_F16};
}

static void enqueue_attention(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_attention op = {
        .batch = bench->batch,
        .kv = kv_view(bench),
        .heads = HEADS,
        .scale = 0.125f,
        .query = region(bench, 0),
        .query_stride = HEADS * HEAD_SIZE,
        .out = region(bench, 1),
        .out_stride = HEADS * HEAD_SIZE,
    };
    check(op_attention(bench->stream, &op), "attention");
}

static void enqueue_kv_write(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_kv_write op = {
        .batch = bench->batch,
        .kv = kv_view(bench),
        .key = region(bench, 0),
        .key_stride = KV_HEADS * HEAD_SIZE,
        .value = region(bench, 1),
        .value_stride = KV_HEADS * HEAD_SIZE,
    };
    check(op_kv_write(bench->stream, &op), "kv_write");
}

static void enqueue_rms_norm(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_rms_norm op = {.rows = bench->rows,
                             .columns = HIDDEN,
                             .in = region(bench, 0),
                             .in_stride = HIDDEN,
                             .weight = region(bench, 2),
                             .eps = 1e-5f,
                             .out = region(bench, 1),
                             .out_stride = HIDDEN};
    check(op_rms_norm(bench->stream, &op), "rms_norm");
}

static void enqueue_gated_norm(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_gated_norm op = {.rows = bench->rows,
                               .columns = INNER,
                               .groups = 1,
                               .in = region(bench, 0),
                               .in_stride = INNER,
                               .gate = region(bench, 3),
                               .gate_stride = IN_PROJECTION,
                               .weight = region(bench, 2),
                               .eps = 1e-5f,
                               .out = region(bench, 1),
                               .out_stride = INNER};
    check(op_gated_norm(bench->stream, &op), "gated_norm");
}

static void enqueue_swiglu(struct bench *bench, void *context, int round) {
    (void)context;
    (void)round;
    struct op_swiglu op = {.rows = bench->rows,
                           .columns = FEED_FORWARD,
                           .gate = region(bench, 0),
                           .gate_stride = FEED_FORWARD,
                           .up = region(bench, 1),
                           .up_stride = FEED_FORWARD,
                           .out = region(bench, 2),
                           .out_stride = FEED_FORWARD};
    check(op_swiglu(bench->stream, &op), "swiglu");
}

static void bench_others(struct bench *bench) {
    static const int row_counts[] = {1, 8, 64, 128};
    for (size_t i = 0; i < ARRAY_LEN(row_counts); i++) {
        int rows = row_counts[i];
        double sequences = rows <= DECODE_ROWS_MAX ? rows : 1;
        set_batch(bench, rows, 512);
        double us = time_rounds(bench, enqueue_ssm_scan, NULL);
        double state = (double)SSM_HEADS * SSM_HEAD_SIZE * SSM_STATE;
        print_line(bench, "ssm_scan", us, state * rows * 5, sequences * state * 8);
        us = time_rounds(bench, enqueue_conv1d, NULL);
        double channels = (double)CONV_CHANNELS * rows;
        print_line(bench, "conv1d", us, channels * 2 * CONV_TAPS, channels * 8);
        for (int context = 512; context <= CONTEXT_MAX; context *= 16) {
            set_batch(bench, rows, context);
            us = time_rounds(bench, enqueue_attention, NULL);
            double pairs = (double)rows * (context - (rows > DECODE_ROWS_MAX ? rows / 2 : 0));
            char name[32];
            snprintf(name, sizeof name, "attention of %d", context);
            print_line(bench, name, us, pairs * HEADS * HEAD_SIZE * 4,
                       sequences * context * KV_HEADS * HEAD_SIZE * 4);
        }
        us = time_rounds(bench, enqueue_kv_write, NULL);
        print_line(bench, "kv_write", us, 0, (double)rows * KV_HEADS * HEAD_SIZE * 12);
        us = time_rounds(bench, enqueue_rms_norm, NULL);
        print_line(bench, "rms_norm", us, (double)rows * HIDDEN * 4, (double)rows * HIDDEN * 8);
        us = time_rounds(bench, enqueue_gated_norm, NULL);
        print_line(bench, "gated_norm", us, (double)rows * INNER * 5, (double)rows * INNER * 12);
        us = time_rounds(bench, enqueue_swiglu, NULL);
        print_line(bench, "swiglu", us, (double)rows * FEED_FORWARD * 2,
                   (double)rows * FEED_FORWARD * 12);
    }
}

/* --- set-up -------------------------------------------------------------------------- */

static void fill_values(struct bench *bench) {
    size_t count = (size_t)REGION_VALUES * REGIONS;
    float *values = malloc(count * sizeof *values);
    if (values == NULL) {
        check(err_fail(ERR_NOMEM, "%zu values", count), "values");
    }
    uint32_t seed = 7;
    for (size_t i = 0; i < count; i++) {
        values[i] = random_value(&seed);
    }
    for (size_t i = (REGIONS - 1) * (size_t)REGION_VALUES; i < count; i++) {
        values[i] = -fabsf(values[i]); /* decay rates of ssm_scan */
    }
    check(device_copy_in(bench->stream, device_ptr_at(bench->values, 0), values,
                         count * sizeof *values),
          "values");
    check(device_stream_wait_idle(bench->stream), "wait");
    free(values);
}

static void bench_isa(const char *isa, int threads) {
    struct bench bench = {0};
    struct device_config config = {.isa = isa, .threads = threads};
    enum err err = device_open(&config, &bench.device);
    if (err != ERR_OK) {
        printf("%s: %s\n", isa, err_message());
        return;
    }
    struct device_info info;
    device_get_info(bench.device, &info);
    printf("%s, %d threads\n", info.isa, info.threads);
    size_t states_bytes = DECODE_ROWS_MAX * STATE_LAYERS * SLOT_BYTES;
    struct batch_limits limits = {ROWS_MAX, DECODE_ROWS_MAX,
                                  DECODE_ROWS_MAX * CONTEXT_MAX / BLOCK_SIZE, 1};
    check(device_stream_create(bench.device, DEVICE_STREAM_COMPUTE, &bench.stream), "stream");
    check(device_buffer_create(bench.device, (size_t)REGION_VALUES * REGIONS * sizeof(float),
                               &bench.values),
          "values");
    check(device_buffer_create(bench.device, states_bytes, &bench.states), "states");
    check(device_buffer_create(bench.device, CONTEXT_MAX / BLOCK_SIZE * BLOCK_BYTES, &bench.blocks),
          "blocks");
    check(batch_create(bench.device, &limits, &bench.batch), "batch");
    fill_values(&bench);
    check(device_fill(bench.stream, device_ptr_at(bench.states, 0), 0, states_bytes), "states");
    bench_others(&bench);
    bench_products(&bench);
    batch_destroy(bench.batch);
    device_buffer_destroy(bench.blocks);
    device_buffer_destroy(bench.states);
    device_buffer_destroy(bench.values);
    device_stream_destroy(bench.stream);
    device_close(bench.device);
}

int main(int argc, char **argv) {
    static const char *const all[] = {"avx512vnni", "avx512", "avx2", "portable"};
    int threads = argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0;
    for (int i = 2; i < argc; i++) {
        bench_isa(argv[i], threads);
    }
    for (size_t i = 0; argc <= 2 && i < ARRAY_LEN(all); i++) {
        bench_isa(all[i], threads);
    }
    return 0;
}
