/*
 * Causal grouped-query attention over pool blocks. A unit is one kv head of a
 * run of rows of a sequence; its queries are those rows' heads that read the kv
 * head. The unit walks the tiles of 32 absolute tokens: a tile's K and V are
 * widened once and serve all queries, four at a time.
 *
 * I1  A query's sums meet the tiles in order, a tile's tokens in order, and
 *     nothing of another query: which queries share a unit changes no bit.
 * I2  Tokens past a query's own take no part: their scores are masked before
 *     the maximum, their p is +0 where it meets l (which is never -0), and the
 *     sum over V ends before them.
 */
#include "gpu/host/kernel_kv.h"
#include "gpu/host/kernel_transcendental.h"

#include <math.h>

enum {
    TILE = 32,
    TILE_VECTORS = TILE / SIMD_LANES,
    QUERY_GROUP = SIMD_REGISTERS >= 32 ? 4 : 2, /* queries that share loads of the tile */
    VALUE_VECTORS = 4,                          /* vectors of V dimensions per pass */
    UNIT_ROWS = 16,
};

/* What a query carries from tile to tile, beside acc in the worker's scratch. */
struct attention_query {
    const float *q;
    float *acc; /* [value_size] rounded up to whole vectors */
    float *out;
    int position;
    float m;
    struct simd l;
};

/* The worker's scratch. */
struct attention_scratch {
    struct attention_query *queries;
    float *acc;
    float *key;   /* [key_size][TILE] */
    float *value; /* [TILE][value_width] */
};

struct attention_unit {
    const struct op_attention *op;
    const struct batch_sequence *sequence;
    size_t first_row; /* of the step */
    int position;     /* of that row */
    int rows;
    int kv_head;
    int value_width; /* value_size rounded up to whole vectors */
};

static size_t round_up(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static int value_width_of(const struct op_attention *op) {
    return (op->kv.value_size + SIMD_LANES - 1) / SIMD_LANES * SIMD_LANES;
}

static size_t query_bytes_of(const struct op_attention *op) {
    size_t queries = (size_t)UNIT_ROWS * (size_t)(op->heads / op->kv.kv_heads);
    return round_up(queries * sizeof(struct attention_query));
}

static size_t acc_bytes_of(const struct op_attention *op) {
    size_t queries = (size_t)UNIT_ROWS * (size_t)(op->heads / op->kv.kv_heads);
    return round_up(queries * (size_t)value_width_of(op) * sizeof(float));
}

static size_t key_bytes_of(const struct op_attention *op) {
    return round_up((size_t)op->kv.key_size * TILE * sizeof(float));
}

/* Of one worker. */
static size_t scratch_bytes_of(const struct op_attention *op) {
    size_t value_bytes = round_up((size_t)value_width_of(op) * TILE * sizeof(float));
    return query_bytes_of(op) + acc_bytes_of(op) + key_bytes_of(op) + value_bytes;
}

static struct attention_scratch scratch_at(const struct op_attention *op, uint8_t *memory) {
    uint8_t *acc = memory + query_bytes_of(op);
    uint8_t *key = acc + acc_bytes_of(op);
    uint8_t *value = key + key_bytes_of(op);
    return (struct attention_scratch){
        .queries = (struct attention_query *)(void *)memory,
        .acc = (float *)(void *)acc,
        .key = (float *)(void *)key,
        .value = (float *)(void *)value,
    };
}

/* --- widening a tile ----------------------------------------------------------------- */

/* TOKENS tokens of the tile exist; the rest of the last vector of K may be anything. */
KERNEL_INLINE void widen_key(const struct attention_unit *unit, enum dtype type, int start,
                             int tokens, float *to) {
    const struct op_kv_view *kv = &unit->op->kv;
    size_t element = dtype_block_bytes(type);
    size_t dimension_bytes = (size_t)kv->block_size * element;
    int run;
    for (int t = 0; t < tokens; t += run) {
        int in_block = (start + t) & (kv->block_size - 1);
        run = kv->block_size - in_block;
        run = run < SIMD_LANES ? run : SIMD_LANES;
        const uint8_t *from =
            kernel_kv_key(kv, unit->sequence, (start + t) / kv->block_size, unit->kv_head) +
            (size_t)in_block * element;
        if (run == SIMD_LANES) {
            for (int d = 0; d < kv->key_size; d++) {
                simd_store(to + d * TILE + t, kernel_kv_widen(type, from, SIMD_LANES));
                from += dimension_bytes;
            }
        } else {
            for (int d = 0; d < kv->key_size; d++) {
                simd_store_part(to + d * TILE + t, kernel_kv_widen(type, from, run), run);
                from += dimension_bytes;
            }
        }
    }
}

KERNEL_INLINE void widen_value(const struct attention_unit *unit, enum dtype type, int start,
                               int tokens, float *to) {
    const struct op_kv_view *kv = &unit->op->kv;
    size_t element = dtype_block_bytes(type);
    size_t token_bytes = (size_t)kv->value_size * element;
    int run;
    for (int t = 0; t < tokens; t += run) {
        int in_block = (start + t) & (kv->block_size - 1);
        run = kv->block_size - in_block < tokens - t ? kv->block_size - in_block : tokens - t;
        const uint8_t *from =
            kernel_kv_value(kv, unit->sequence, (start + t) / kv->block_size, unit->kv_head) +
            (size_t)in_block * token_bytes;
        for (int j = t; j < t + run; j++) {
            float *row = to + j * unit->value_width;
            for (int d = 0; d < kv->value_size; d += SIMD_LANES) {
                int lanes = kernel_plan_lanes(d, kv->value_size);
                simd_store(row + d, kernel_kv_widen(type, from + (size_t)d * element, lanes));
            }
            from += token_bytes;
        }
    }
}

static void widen_tile(const struct attention_unit *unit, int start, int tokens,
                       const struct attention_scratch *scratch) {
    switch (unit->op->kv.type) {
    case DTYPE_F16:
        widen_key(unit, DTYPE_F16, start, tokens, scratch->key);
        widen_value(unit, DTYPE_F16, start, tokens, scratch->value);
        break;
    case DTYPE_BF16:
        widen_key(unit, DTYPE_BF16, start, tokens, scratch->key);
        widen_value(unit, DTYPE_BF16, start, tokens, scratch->value);
        break;
    default:
        widen_key(unit, DTYPE_F32, start, tokens, scratch->key);
        widen_value(unit, DTYPE_F32, start, tokens, scratch->value);
        break;
    }
}

/* --- one tile, a few queries --------------------------------------------------------- */

/* K and V of a tile: widened in the scratch, or as they lie in the pool. */
struct attention_tile {
    const uint8_t *key;   /* [key_size][at least TILE] */
    size_t key_bytes;     /* from dimension to dimension */
    const uint8_t *value; /* [TILE][value_width] */
    size_t value_bytes;   /* from token to token */
    int start;
};

KERNEL_INLINE int visible_tokens(const struct attention_query *query, int start) {
    int visible = query->position - start + 1;
    return visible < TILE ? visible : TILE;
}

/* Scales scores, masks them and gives the new maximum. */
KERNEL_INLINE float scale_scores(struct simd s[TILE_VECTORS], float scale, int visible, float m) {
    struct simd lowest = simd_set1(-INFINITY);
    struct simd largest = simd_set1(m);
#pragma GCC unroll 2
    for (int i = 0; i < TILE_VECTORS; i++) {
        int lanes = visible - i * SIMD_LANES;
        s[i] = simd_mul(s[i], simd_set1(scale));
        if (lanes < SIMD_LANES) {
            s[i] = simd_first(s[i], lowest, lanes > 0 ? lanes : 0);
        }
        largest = simd_max(s[i], largest);
    }
    return simd_largest(largest);
}

/* Weights P of the scores under the new maximum M; returns the factor of what is summed so far. */
KERNEL_INLINE float soften(struct attention_query *query, const struct simd s[TILE_VECTORS],
                           float m, int visible, float p[TILE]) {
    struct simd factor = kernel_transcendental_exp(simd_set1(query->m - m));
    struct simd l = simd_mul(query->l, factor);
#pragma GCC unroll 2
    for (int i = 0; i < TILE_VECTORS; i++) {
        int lanes = visible - i * SIMD_LANES;
        struct simd e = kernel_transcendental_exp(simd_sub(s[i], simd_set1(m)));
        if (lanes < SIMD_LANES) {
            e = simd_first(e, simd_zero(), lanes > 0 ? lanes : 0);
        }
        simd_store(p + i * SIMD_LANES, e);
        l = simd_add(l, e);
    }
    query->l = l;
    query->m = m;
    return simd_lane0(factor);
}

KERNEL_INLINE void score(struct attention_query *const query[], int count, enum dtype type,
                         const struct attention_tile *tile, int key_size,
                         struct simd s[][TILE_VECTORS]) {
    const uint8_t *key = tile->key;
    const float *q[QUERY_GROUP];
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        q[g] = query[g]->q;
#pragma GCC unroll 2
        for (int i = 0; i < TILE_VECTORS; i++) {
            s[g][i] = simd_zero();
        }
    }
    for (int d = 0; d < key_size; d++) {
        struct simd k[TILE_VECTORS];
#pragma GCC unroll 2
        for (int i = 0; i < TILE_VECTORS; i++) {
            size_t at = (size_t)i * SIMD_LANES * (type == DTYPE_F32 ? 4 : 2);
            k[i] = kernel_kv_widen(type, key + at, SIMD_LANES);
        }
#pragma GCC unroll 4
        for (int g = 0; g < count; g++) {
            struct simd x = simd_set1(q[g][d]);
#pragma GCC unroll 2
            for (int i = 0; i < TILE_VECTORS; i++) {
                s[g][i] = simd_fma(x, k[i], s[g][i]);
            }
        }
        key += tile->key_bytes;
    }
}

/* One token's part of acc, dimensions D and on, for queries FIRST to COUNT - 1. */
KERNEL_INLINE void add_token(enum dtype type, const uint8_t *value, int first, int count,
                             int vectors, float p[][TILE], int j,
                             struct simd acc[QUERY_GROUP][VALUE_VECTORS]) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        size_t at = (size_t)v * SIMD_LANES * (type == DTYPE_F32 ? 4 : 2);
        struct simd x = kernel_kv_widen(type, value + at, SIMD_LANES);
#pragma GCC unroll 4
        for (int g = first; g < count; g++) {
            acc[g][v] = simd_fma(simd_set1(p[g][j]), x, acc[g][v]);
        }
    }
}

/* acc = acc * factor + p V over VECTORS vectors of dimensions and tokens 0 to VISIBLE - 1 of each
 * query; tokens that all of them see go together. */
KERNEL_INLINE void add_values(struct attention_query *const query[], int count, int vectors,
                              enum dtype type, const struct attention_tile *tile, int d,
                              const float factor[], float p[][TILE], const int visible[]) {
    struct simd acc[QUERY_GROUP][VALUE_VECTORS];
    const uint8_t *value = tile->value + (size_t)d * (type == DTYPE_F32 ? 4 : 2);
    int shared = TILE;
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        shared = visible[g] < shared ? visible[g] : shared;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            acc[g][v] =
                simd_mul(simd_load(query[g]->acc + d + v * SIMD_LANES), simd_set1(factor[g]));
        }
    }
    for (int j = 0; j < shared; j++) {
        add_token(type, value + (size_t)j * tile->value_bytes, 0, count, vectors, p, j, acc);
    }
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        for (int j = shared; j < visible[g]; j++) {
            add_token(type, value + (size_t)j * tile->value_bytes, g, g + 1, vectors, p, j, acc);
        }
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            simd_store(query[g]->acc + d + v * SIMD_LANES, acc[g][v]);
        }
    }
}

KERNEL_INLINE void attend(const struct attention_unit *unit, struct attention_query *const query[],
                          int count, enum dtype type, const struct attention_tile *tile) {
    struct simd s[QUERY_GROUP][TILE_VECTORS];
    float p[QUERY_GROUP][TILE];
    float m[QUERY_GROUP];
    float factor[QUERY_GROUP];
    int visible[QUERY_GROUP];
    score(query, count, type, tile, unit->op->kv.key_size, s);
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        visible[g] = visible_tokens(query[g], tile->start);
        m[g] = scale_scores(s[g], unit->op->scale, visible[g], query[g]->m);
    }
#pragma GCC unroll 4
    for (int g = 0; g < count; g++) {
        factor[g] = soften(query[g], s[g], m[g], visible[g], p[g]);
    }
    int width = unit->value_width;
    int d = 0;
    for (; d + VALUE_VECTORS * SIMD_LANES <= width; d += VALUE_VECTORS * SIMD_LANES) {
        add_values(query, count, VALUE_VECTORS, type, tile, d, factor, p, visible);
    }
    for (; d < width; d += SIMD_LANES) {
        add_values(query, count, 1, type, tile, d, factor, p, visible);
    }
}

typedef void attend_fn(const struct attention_unit *unit, struct attention_query *const query[],
                       const struct attention_tile *tile);

#define DEFINE_ATTEND(type, count)                                                                 \
    static void attend_##type##_##count(const struct attention_unit *unit,                         \
                                        struct attention_query *const query[],                     \
                                        const struct attention_tile *tile) {                       \
        attend(unit, query, (int)count < (int)QUERY_GROUP ? count : QUERY_GROUP, DTYPE_##type,     \
               tile);                                                                              \
    }
DEFINE_ATTEND(F32, 1)
DEFINE_ATTEND(F32, 2)
DEFINE_ATTEND(F32, 3)
DEFINE_ATTEND(F32, 4)
DEFINE_ATTEND(F16, 1)
DEFINE_ATTEND(F16, 2)
DEFINE_ATTEND(F16, 3)
DEFINE_ATTEND(F16, 4)
DEFINE_ATTEND(BF16, 1)
DEFINE_ATTEND(BF16, 2)
DEFINE_ATTEND(BF16, 3)
DEFINE_ATTEND(BF16, 4)

/* By count of queries, less 1; those past QUERY_GROUP are never called. */
static attend_fn *const attends[DTYPE_COUNT][4] = {
    [DTYPE_F32] = {attend_F32_1, attend_F32_2, attend_F32_3, attend_F32_4},
    [DTYPE_F16] = {attend_F16_1, attend_F16_2, attend_F16_3, attend_F16_4},
    [DTYPE_BF16] = {attend_BF16_1, attend_BF16_2, attend_BF16_3, attend_BF16_4},
};

/* Whether a tile can be read where it lies: in one block, V in whole vectors. */
static int is_tile_whole(const struct attention_unit *unit) {
    const struct op_kv_view *kv = &unit->op->kv;
    return kv->block_size >= TILE && kv->value_size % SIMD_LANES == 0;
}

static struct attention_tile pool_tile(const struct attention_unit *unit, int start) {
    const struct op_kv_view *kv = &unit->op->kv;
    size_t element = dtype_block_bytes(kv->type);
    size_t value_bytes = (size_t)kv->value_size * element;
    size_t in_block = (size_t)(start & (kv->block_size - 1));
    int block = start / kv->block_size;
    return (struct attention_tile){
        .key = kernel_kv_key(kv, unit->sequence, block, unit->kv_head) + in_block * element,
        .key_bytes = (size_t)kv->block_size * element,
        .value = kernel_kv_value(kv, unit->sequence, block, unit->kv_head) + in_block * value_bytes,
        .value_bytes = value_bytes,
        .start = start,
    };
}

static struct attention_tile scratch_tile(const struct attention_unit *unit, int start,
                                          const struct attention_scratch *scratch) {
    return (struct attention_tile){
        .key = (const uint8_t *)scratch->key,
        .key_bytes = TILE * sizeof(float),
        .value = (const uint8_t *)scratch->value,
        .value_bytes = (size_t)unit->value_width * sizeof(float),
        .start = start,
    };
}

/* --- units --------------------------------------------------------------------------- */

static int start_queries(const struct attention_unit *unit,
                         const struct attention_scratch *scratch) {
    const struct op_attention *op = unit->op;
    int heads = op->heads / op->kv.kv_heads;
    int count = unit->rows * heads;
    memset(scratch->acc, 0, (size_t)count * (size_t)unit->value_width * sizeof(float));
    for (int i = 0; i < count; i++) {
        size_t row = unit->first_row + (size_t)(i / heads);
        int head = unit->kv_head * heads + i % heads;
        scratch->queries[i] = (struct attention_query){
            .q = kernel_plan_row(op->query, op->query_stride, row) + head * op->kv.key_size,
            .acc = scratch->acc + i * unit->value_width,
            .out = kernel_plan_row(op->out, op->out_stride, row) + head * op->kv.value_size,
            .position = unit->position + i / heads,
            .m = -INFINITY,
            .l = simd_zero(),
        };
    }
    return count;
}

static void finish_query(const struct attention_query *query, int value_size) {
    struct simd sum = simd_set1(simd_tree16(query->l));
    for (int d = 0; d < value_size; d += SIMD_LANES) {
        int lanes = kernel_plan_lanes(d, value_size);
        simd_store_part(query->out + d, simd_div(simd_load(query->acc + d), sum), lanes);
    }
}

static void attention_unit_run(const struct attention_unit *unit,
                               const struct attention_scratch *scratch) {
    int count = start_queries(unit, scratch);
    int last = unit->position + unit->rows - 1;
    /* What few queries read is widened as it is read; for more, once for all of them. */
    int is_direct = count <= QUERY_GROUP && is_tile_whole(unit);
    enum dtype type = is_direct ? unit->op->kv.type : DTYPE_F32;
    /* Queries are ordered by position, so those that see a tile are the last ones. */
    int first = 0;
    for (int start = 0; start <= last; start += TILE) {
        struct attention_tile tile;
        if (is_direct) {
            tile = pool_tile(unit, start);
        } else {
            widen_tile(unit, start, last - start + 1 < TILE ? last - start + 1 : TILE, scratch);
            tile = scratch_tile(unit, start, scratch);
        }
        while (scratch->queries[first].position < start) {
            first++;
        }
        int taken;
        for (int i = first; i < count; i += taken) {
            struct attention_query *group[QUERY_GROUP];
            taken = count - i < QUERY_GROUP ? count - i : QUERY_GROUP;
            for (int g = 0; g < taken; g++) {
                group[g] = &scratch->queries[i + g];
            }
            attends[type][taken - 1](unit, group, &tile);
        }
    }
    for (int i = 0; i < count; i++) {
        finish_query(&scratch->queries[i], unit->op->kv.value_size);
    }
}

static size_t row_runs(const struct batch_sequence *sequence) {
    return ((size_t)sequence->rows + UNIT_ROWS - 1) / UNIT_ROWS;
}

static void attention_run(const struct kernel_call *call, size_t begin, size_t end, int worker) {
    const struct op_attention *op = &call->command->attention;
    const struct batch_layout *layout = &op->batch->layout;
    size_t kv_heads = (size_t)op->kv.kv_heads;
    size_t scratch_offset = (size_t)worker * scratch_bytes_of(op);
    struct attention_scratch scratch = scratch_at(op, (uint8_t *)call->scratch + scratch_offset);
    size_t first_unit = 0;
    size_t first_row = 0;
    for (int s = 0; s < layout->sequence_count && first_unit < end; s++) {
        const struct batch_sequence *sequence = &layout->sequences[s];
        size_t units = row_runs(sequence) * kv_heads;
        size_t from = begin > first_unit ? begin - first_unit : 0;
        size_t to = end - first_unit < units ? end - first_unit : units;
        for (size_t i = from; i < to; i++) {
            int row = (int)(i / kv_heads) * UNIT_ROWS;
            int rest = sequence->rows - row;
            struct attention_unit unit = {
                .op = op,
                .sequence = sequence,
                .first_row = first_row + (size_t)row,
                .position = sequence->position + row,
                .rows = rest < UNIT_ROWS ? rest : UNIT_ROWS,
                .kv_head = (int)(i % kv_heads),
                .value_width = value_width_of(op),
            };
            attention_unit_run(&unit, &scratch);
        }
        first_unit += units;
        first_row += (size_t)sequence->rows;
    }
}

void KERNEL_SYMBOL(kernel_plan_attention)(const struct command *command, int threads,
                                          struct kernel_plan *out) {
    const struct op_attention *op = &command->attention;
    const struct batch_layout *layout = &op->batch->layout;
    size_t units = 0;
    for (int s = 0; s < layout->sequence_count; s++) {
        units += row_runs(&layout->sequences[s]) * (size_t)op->kv.kv_heads;
    }
    /* Units differ in length by far, so they are handed out one by one. */
    out->phase_count = 1;
    out->phases[0] = (struct kernel_phase){attention_run, units, 1};
    out->scratch_bytes = scratch_bytes_of(op) * (size_t)threads;
}
