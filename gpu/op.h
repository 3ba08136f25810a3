/*
 * The ops of a forward pass: one params struct each, enqueued on a stream.
 *
 * Activations are F32, [rows][columns] with a row stride counted in values.
 * Params are copied when enqueued. Each op's byte ranges are checked then:
 * ERR_INVALID, naming the op and the operand, and nothing is enqueued.
 * `rows` == 0 is allowed everywhere and does nothing.
 *
 * "Order" paragraphs fix each sum and each rounding, so that every kernel of a
 * numerics class gives the same bits (docs/numerics.md): fma is one rounding,
 * + * / sqrt round once each, nothing else is reassociated or contracted. The
 * result of a row depends on that row's own sequence alone. exp, log1p and the
 * functions made of them are those of gpu/transcendental.h.
 *
 * tree16(p) means: p[i] += p[i + 8] for i < 8, then + 4, + 2, + 1; the result is p[0].
 */
#ifndef TERN_GPU_OP_H
#define TERN_GPU_OP_H

#include "gpu/batch.h"
#include "gpu/device.h"

/* --- views into the pools ------------------------------------------------------------ */

/*
 * One attention layer's part of the KV pool. Block b begins at byte b * block_bytes; in it K
 * lies at key_offset_bytes as [kv_heads][key_size][block_size] and V at value_offset_bytes as
 * [kv_heads][block_size][value_size], both of element type `type` (F32, F16 or BF16).
 * block_size is a power of two, 8 to 256.
 */
struct op_kv_view {
    struct device_buffer *pool;
    size_t block_bytes;
    size_t key_offset_bytes;
    size_t value_offset_bytes;
    int block_size;
    int kv_heads;
    int key_size;
    int value_size;
    enum dtype type;
};

/* One segment of every state slot: slot s holds it at byte s * slot_bytes + offset_bytes, as F32.
 */
struct op_state_view {
    struct device_buffer *pool;
    size_t slot_bytes;
    size_t offset_bytes;
};

/* --- embedding and rows -------------------------------------------------------------- */

/* out[r][c] = W[token of row r][c] * scale; a Q8_0 value is d * q first (exact). out is dense. */
struct op_embed {
    const struct batch *batch;
    const struct device_weight *weight; /* [vocabulary][columns] */
    float scale;
    struct device_ptr out;
};
MUST_USE enum err op_embed(struct device_stream *stream, const struct op_embed *params);

/* out[i][c] = in[output_rows[i]][c], both dense. */
struct op_gather_rows {
    const struct batch *batch;
    struct device_ptr in;
    int columns;
    struct device_ptr out;
};
MUST_USE enum err op_gather_rows(struct device_stream *stream, const struct op_gather_rows *params);

/* --- norms --------------------------------------------------------------------------- */

/*
 * RMS norm: out = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019). out may be in.
 * Order: p[c % 16] = fma(x, x, p[c % 16]) for rising c from +0; sum = tree16(p);
 * r = 1 / sqrt(sum / columns + eps); out = (x * r) * weight.
 */
struct op_rms_norm {
    int rows;
    int columns;
    struct device_ptr in;
    size_t in_stride;
    struct device_ptr weight; /* [columns] */
    float eps;
    struct device_ptr out;
    size_t out_stride;
};
MUST_USE enum err op_rms_norm(struct device_stream *stream, const struct op_rms_norm *params);

/*
 * Mamba-2's gated norm, gate before norm: g = in * silu(gate), then an RMS norm of each of
 * `groups` runs of columns / groups values, times weight [columns]. Without a weight
 * (buffer NULL) out = g. Order within a group as in op_rms_norm, c counted from the group's
 * start. out may be in.
 */
struct op_gated_norm {
    int rows;
    int columns;
    int groups;
    struct device_ptr in;
    size_t in_stride;
    struct device_ptr gate;
    size_t gate_stride;
    struct device_ptr weight;
    float eps;
    struct device_ptr out;
    size_t out_stride;
};
MUST_USE enum err op_gated_norm(struct device_stream *stream, const struct op_gated_norm *params);

/* --- matrix products ----------------------------------------------------------------- */

enum { OP_PRODUCTS_MAX = 4 };

enum op_epilogue {
    OP_EPILOGUE_STORE,  /* out = y */
    OP_EPILOGUE_ADD,    /* out = fma(y, factor, out): the residual connection */
    OP_EPILOGUE_DIVIDE, /* out = y / factor */
};

struct op_product {
    const struct device_weight *weight; /* [out columns][in columns] */
    struct device_ptr bias;             /* [out columns], or none */
    struct device_ptr out;
    size_t out_stride;
    enum op_epilogue epilogue;
    float factor; /* unused by STORE */
};

/*
 * Up to OP_PRODUCTS_MAX products of one input: y = W x (+ bias), then the epilogue. No out may
 * overlap the input or another out.
 * Order, F32, F16 and BF16 weights (widened): acc = fma(w[k], x[k], acc), k rising from +0.
 * Order, Q8_0: each row of x is quantised by itself in blocks of 32: m = max |x|; if m is not
 * finite the block is scale NaN, q 0; else if m < 2^-100 scale 0, q 0; else scale = m / 127,
 * q = x * (127 / m) rounded to nearest even. Then over blocks b in order:
 * acc = fma((float)isum_b, weight_scale_b * scale_b, acc) from +0, isum_b the exact int32 sum.
 * Then y = acc, or acc + bias.
 */
struct op_matmul {
    int rows;
    struct device_ptr in;
    size_t in_stride;
    int product_count;
    struct op_product products[OP_PRODUCTS_MAX];
};
MUST_USE enum err op_matmul(struct device_stream *stream, const struct op_matmul *params);

/* --- feed forward -------------------------------------------------------------------- */

/* SwiGLU (Shazeer 2020): out = silu(gate) * up. out may be gate or up. */
struct op_swiglu {
    int rows;
    int columns;
    struct device_ptr gate;
    size_t gate_stride;
    struct device_ptr up;
    size_t up_stride;
    struct device_ptr out;
    size_t out_stride;
};
MUST_USE enum err op_swiglu(struct device_stream *stream, const struct op_swiglu *params);

/* --- attention ----------------------------------------------------------------------- */

/*
 * Cosines and sines of a step's rows, once for all layers: table[row][pair] = {cos, sin} as
 * F32 of angle = position * frequencies[pair] (one F64 product), by elementary_sincos of
 * base/elementary.h, rounded to F32.
 */
struct op_rope_table {
    const struct batch *batch;
    struct device_ptr frequencies; /* F64 [pairs] */
    int pairs;
    struct device_ptr table; /* F32 [rows][pairs][2] */
};
MUST_USE enum err op_rope_table(struct device_stream *stream, const struct op_rope_table *params);

enum op_rope_style {
    OP_ROPE_NEIGHBOURS, /* pair i is dimensions (2i, 2i + 1) */
    OP_ROPE_HALVES,     /* pair i is dimensions (i, i + pairs) */
};

/*
 * Rotary positions (Su et al. 2021) in place on x [rows][heads][head_size]; dimensions from
 * 2 * pairs on stay. Order: a' = fma(a, cos, -(b * sin)); b' = fma(a, sin, b * cos).
 */
struct op_rope {
    int rows;
    int heads;
    int head_size;
    int pairs;
    enum op_rope_style style;
    struct device_ptr table;
    struct device_ptr x;
    size_t x_stride;
};
MUST_USE enum err op_rope(struct device_stream *stream, const struct op_rope *params);

/* Stores K [rows][kv_heads][key_size] and V [rows][kv_heads][value_size] of every row at its
 * position in its sequence's blocks, narrowed to the pool's type (nearest even). */
struct op_kv_write {
    const struct batch *batch;
    struct op_kv_view kv;
    struct device_ptr key;
    size_t key_stride;
    struct device_ptr value;
    size_t value_stride;
};
MUST_USE enum err op_kv_write(struct device_stream *stream, const struct op_kv_write *params);

/*
 * Causal grouped-query attention of each row over its sequence's pool blocks, positions 0 to its
 * own, K and V read back in the pool's type and widened. Query head h reads kv head
 * h / (heads / kv_heads).
 * Order: tiles of 32 tokens at absolute positions 0, 32, ...; m = -inf, l[16] = 0, acc = 0.
 * For each tile: s[j] = dot * scale, dot = fma(q[d], k[d][j], dot) for rising d from +0;
 * m' = max(m, all s[j]); f = exp(m - m'); p[j] = exp(s[j] - m'); l[i] = l[i] * f for each i,
 * then l[j % 16] += p[j] for rising j; acc[d] = acc[d] * f, then fma(p[j], v[j][d], acc[d]) for
 * rising j. Tokens after the row's own position take no part in any of it. At the end
 * out[d] = acc[d] / tree16(l). A NaN s[j] is never the maximum.
 */
struct op_attention {
    const struct batch *batch;
    struct op_kv_view kv;
    int heads;
    float scale;
    struct device_ptr query; /* [rows][heads][key_size] */
    size_t query_stride;
    struct device_ptr out; /* [rows][heads][value_size] */
    size_t out_stride;
};
MUST_USE enum err op_attention(struct device_stream *stream, const struct op_attention *params);

/* --- recurrent layers ---------------------------------------------------------------- */

/*
 * Causal depthwise convolution and silu of Mamba (Gu and Dao 2023). The state segment holds the
 * last taps - 1 inputs, oldest first, [taps - 1][channels]; it is advanced, and copied to the
 * slot of every mark as it stands after the marked row.
 * Order: acc = bias[c] (+0 without), then acc = fma(w[c][j], x[t - taps + 1 + j][c], acc) for
 * rising j; out = silu(acc). out must not overlap in.
 */
struct op_conv1d {
    const struct batch *batch;
    struct op_state_view state;
    int channels;
    int taps;                 /* 2 to 8 */
    struct device_ptr weight; /* [channels][taps] */
    struct device_ptr bias;   /* [channels], or none */
    struct device_ptr in;
    size_t in_stride;
    struct device_ptr out;
    size_t out_stride;
};
MUST_USE enum err op_conv1d(struct device_stream *stream, const struct op_conv1d *params);

/*
 * Mamba-2's recurrence (Dao and Gu 2024), one step a token in prefill and decode alike. The
 * state segment is S [heads][state_size][head_size]; it is advanced, and copied to the slot of
 * every mark as it stands after the marked row. Head h reads B and C of group
 * h / (heads / groups).
 * Order, for head h: dt = softplus(dt_in + dt_bias); f = exp(dt * a); u[p] = dt * x[p]; for
 * rising n: S[n][p] = fma(S[n][p], f, B[n] * u[p]) and y[n % 4][p] = fma(C[n], S[n][p],
 * y[n % 4][p]) from +0; out[p] = fma(d, x[p], (y[0] + y[1]) + (y[2] + y[3])).
 */
struct op_ssm_scan {
    const struct batch *batch;
    struct op_state_view state;
    int heads;
    int head_size;
    int state_size;
    int groups;
    struct device_ptr x; /* [rows][heads][head_size] */
    size_t x_stride;
    struct device_ptr b; /* [rows][groups][state_size] */
    size_t b_stride;
    struct device_ptr c; /* [rows][groups][state_size] */
    size_t c_stride;
    struct device_ptr dt; /* [rows][heads], before bias and softplus */
    size_t dt_stride;
    struct device_ptr dt_bias; /* [heads] */
    struct device_ptr a;       /* [heads], negative */
    struct device_ptr d;       /* [heads] */
    struct device_ptr out;     /* [rows][heads][head_size] */
    size_t out_stride;
};
MUST_USE enum err op_ssm_scan(struct device_stream *stream, const struct op_ssm_scan *params);

/* --- pool copies, also on copy streams ------------------------------------------------ */

/* What a KV block consists of, for copies that keep only its first tokens. */
struct op_kv_segment {
    size_t offset_bytes; /* in the block */
    int outer;           /* runs: kv_heads * key_size for K, kv_heads for V */
    int token_values;    /* values a token has in a run: 1 for K, value_size for V */
};

/*
 * Tail copy: block `to` gets the first `tokens` tokens of block `from`, and zeros for the rest,
 * so that it holds nothing of another conversation. from == to zeroes the rest in place.
 */
struct op_kv_copy_tail {
    struct device_buffer *pool;
    size_t block_bytes;
    int block_size;
    enum dtype type;
    const struct op_kv_segment *segments; /* all attention layers' K and V; outlives the copy */
    int segment_count;
    int from;
    int to;
    int tokens; /* 0 to block_size */
};
MUST_USE enum err op_kv_copy_tail(struct device_stream *stream,
                                  const struct op_kv_copy_tail *params);

/* Copies a whole terminal state, slot to slot. */
struct op_state_copy {
    struct device_buffer *pool;
    size_t slot_bytes;
    int from;
    int to;
};
MUST_USE enum err op_state_copy(struct device_stream *stream, const struct op_state_copy *params);

/* Writes the state that a new sequence starts from: zeros. */
struct op_state_clear {
    struct device_buffer *pool;
    size_t slot_bytes;
    int slot;
};
MUST_USE enum err op_state_clear(struct device_stream *stream, const struct op_state_clear *params);

#endif
