/* Rotary positions, KV writes and attention. */
#include "base/elementary.h"
#include "gpu/backend.h"
#include "gpu/reference/reference_op.h"

#include <math.h>
#include <stdlib.h>

enum { TILE_TOKENS = 32 };

void reference_op_rope_table(const struct op_rope_table *p, const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    const double *frequencies = reference_op_at(memory, p->frequencies);
    float *table = reference_op_floats(memory, p->table);
    size_t row = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        for (int t = 0; t < sequence->rows; t++, row++) {
            for (int pair = 0; pair < p->pairs; pair++) {
                double sine;
                double cosine;
                double position = (double)(sequence->position + t);
                elementary_sincos(position * frequencies[pair], &sine, &cosine);
                float *entry = table + (row * (size_t)p->pairs + (size_t)pair) * 2;
                entry[0] = (float)cosine;
                entry[1] = (float)sine;
            }
        }
    }
}

void reference_op_rope(const struct op_rope *p, const struct reference_memory *memory) {
    int is_halves = p->style == OP_ROPE_HALVES;
    for (int row = 0; row < p->rows; row++) {
        const float *table =
            reference_op_floats(memory, p->table) + (size_t)row * (size_t)p->pairs * 2;
        for (int head = 0; head < p->heads; head++) {
            float *x = reference_op_floats(memory, p->x) + (size_t)row * p->x_stride +
                       (size_t)head * (size_t)p->head_size;
            for (int pair = 0; pair < p->pairs; pair++) {
                float cosine = table[2 * pair];
                float sine = table[2 * pair + 1];
                float *a = is_halves ? x + pair : x + 2 * pair;
                float *b = is_halves ? x + pair + p->pairs : x + 2 * pair + 1;
                float a_old = *a;
                float b_old = *b;
                *a = fmaf(a_old, cosine, -(b_old * sine));
                *b = fmaf(a_old, sine, b_old * cosine);
            }
        }
    }
}

/* --- pool addresses ------------------------------------------------------------------ */

/* Where K (or V) of one token lies in the pool. */
struct token_place {
    void *keys;   /* [kv_heads][key_size][block_size] of the token's block */
    void *values; /* [kv_heads][block_size][value_size] */
    size_t idx;   /* of the token within the block */
};

static struct token_place place_token(const struct op_kv_view *kv,
                                      const struct batch_sequence *sequence, int token,
                                      const struct reference_memory *memory) {
    size_t block = (size_t)sequence->block_table[token / kv->block_size];
    size_t begin = block * kv->block_bytes;
    return (struct token_place){
        .keys = reference_op_at(memory, device_ptr_at(kv->pool, begin + kv->key_offset_bytes)),
        .values = reference_op_at(memory, device_ptr_at(kv->pool, begin + kv->value_offset_bytes)),
        .idx = (size_t)(token % kv->block_size),
    };
}

/* Index of K[head][d] of the token within its block's K. */
static size_t key_idx(const struct op_kv_view *kv, const struct token_place *place, int head,
                      int d) {
    return ((size_t)head * (size_t)kv->key_size + (size_t)d) * (size_t)kv->block_size + place->idx;
}

static size_t value_idx(const struct op_kv_view *kv, const struct token_place *place, int head,
                        int d) {
    return ((size_t)head * (size_t)kv->block_size + place->idx) * (size_t)kv->value_size +
           (size_t)d;
}

void reference_op_kv_write(const struct op_kv_write *p, const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    const struct op_kv_view *kv = &p->kv;
    size_t row = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        for (int t = 0; t < sequence->rows; t++, row++) {
            struct token_place place = place_token(kv, sequence, sequence->position + t, memory);
            const float *key = reference_op_floats(memory, p->key) + row * p->key_stride;
            const float *value = reference_op_floats(memory, p->value) + row * p->value_stride;
            for (int head = 0; head < kv->kv_heads; head++) {
                for (int d = 0; d < kv->key_size; d++) {
                    reference_op_store(kv->type, place.keys, key_idx(kv, &place, head, d),
                                       key[head * kv->key_size + d]);
                }
                for (int d = 0; d < kv->value_size; d++) {
                    reference_op_store(kv->type, place.values, value_idx(kv, &place, head, d),
                                       value[head * kv->value_size + d]);
                }
            }
        }
    }
}

/* --- attention ----------------------------------------------------------------------- */

/* What one (row, head) carries from tile to tile. */
struct softmax {
    float maximum;
    float sums[16];
    float *acc; /* [value_size] */
};

/* Takes in tokens [begin, end) of one tile. */
static void take_tile(const struct op_attention *p, const struct batch_sequence *sequence,
                      const struct reference_memory *memory, const float *query, int kv_head,
                      int begin, int end, struct softmax *state) {
    const struct op_kv_view *kv = &p->kv;
    float scores[TILE_TOKENS];
    float maximum = state->maximum;
    for (int j = 0; j < end - begin; j++) {
        struct token_place place = place_token(kv, sequence, begin + j, memory);
        float dot = 0.0f;
        for (int d = 0; d < kv->key_size; d++) {
            float key = reference_op_load(kv->type, place.keys, key_idx(kv, &place, kv_head, d));
            dot = fmaf(query[d], key, dot);
        }
        scores[j] = dot * p->scale;
        /* A NaN is never the maximum. */
        maximum = scores[j] > maximum ? scores[j] : maximum;
    }
    float factor = reference_exp(state->maximum - maximum);
    state->maximum = maximum;
    for (int i = 0; i < 16; i++) {
        state->sums[i] *= factor;
    }
    for (int d = 0; d < kv->value_size; d++) {
        state->acc[d] *= factor;
    }
    for (int j = 0; j < end - begin; j++) {
        struct token_place place = place_token(kv, sequence, begin + j, memory);
        float weight = reference_exp(scores[j] - maximum);
        state->sums[j % 16] += weight;
        for (int d = 0; d < kv->value_size; d++) {
            float value =
                reference_op_load(kv->type, place.values, value_idx(kv, &place, kv_head, d));
            state->acc[d] = fmaf(weight, value, state->acc[d]);
        }
    }
}

/* One row at POSITION, one head. */
static void attend(const struct op_attention *p, const struct batch_sequence *sequence,
                   const struct reference_memory *memory, const float *query, int head,
                   int position, float *acc, float *out) {
    int kv_head = head / (p->heads / p->kv.kv_heads);
    struct softmax state = {.maximum = -INFINITY, .acc = acc};
    for (int d = 0; d < p->kv.value_size; d++) {
        acc[d] = 0.0f;
    }
    for (int begin = 0; begin <= position; begin += TILE_TOKENS) {
        int end = position + 1 - begin > TILE_TOKENS ? begin + TILE_TOKENS : position + 1;
        take_tile(p, sequence, memory, query, kv_head, begin, end, &state);
    }
    float sum = reference_op_tree16(state.sums);
    for (int d = 0; d < p->kv.value_size; d++) {
        out[d] = acc[d] / sum;
    }
}

enum err reference_op_attention(const struct op_attention *p,
                                const struct reference_memory *memory) {
    const struct batch_layout *layout = &p->batch->layout;
    size_t key_size = (size_t)p->kv.key_size;
    size_t value_size = (size_t)p->kv.value_size;
    float *acc CLEANUP(object_free) = calloc(value_size, sizeof *acc);
    if (acc == NULL) {
        return err_fail(ERR_NOMEM, "reference attention: %zu values", value_size);
    }
    size_t row = 0;
    for (int i = 0; i < layout->sequence_count; i++) {
        const struct batch_sequence *sequence = &layout->sequences[i];
        for (int t = 0; t < sequence->rows; t++, row++) {
            const float *query = reference_op_floats(memory, p->query) + row * p->query_stride;
            float *out = reference_op_floats(memory, p->out) + row * p->out_stride;
            for (int head = 0; head < p->heads; head++) {
                attend(p, sequence, memory, query + (size_t)head * key_size, head,
                       sequence->position + t, acc, out + (size_t)head * value_size);
            }
        }
    }
    return ERR_OK;
}
