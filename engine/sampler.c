#include "engine/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/elementary_vector.h"
#include "base/pcg32.h"

/*
 * The steps, in this order, all in double precision. The result is fixed by them to the bit:
 *
 *   1. score = logit, plus the biases of its token in the order given
 *   2. of tokens seen: score / repetition_penalty if score > 0, else score * repetition_penalty;
 *      of tokens generated: - presence_penalty, then - frequency_penalty * occurrences
 *   3. temperature 0: the first token in rank, and no number is drawn
 *   4. top_k: the first top_k tokens in rank stay
 *   5. weight = elementary_vector_exp((score - highest score) / temperature), 0 for tokens that do
 *      not stay
 *   6. top_p: the shortest run of tokens in rank stays whose weights reach top_p of the total
 *   7. min_p: tokens stay whose weight is at least min_p of the highest
 *   8. one number of [0, 1) is drawn; the token is the first, by rising id, up to which the
 *      weights sum to more than that part of their total
 *
 * I1: the rank is by falling score, then rising id: no two tokens are equal in it.
 * I2: what steps 4 and 6 leave is a run at the head of the rank. It is found by a heap, never by
 *     a full sort; after step 6 the last token of the run says of every other whether it stays.
 * I3: every sum runs by rising id, but for the run of step 6, which is summed in rank.
 * I4: the first token in rank always stays, with weight 1.
 */

enum {
    PCG_SEQUENCE = 54, /* one stream for all: the seed alone tells samplers apart */
    MAXIMA = 4,
};

struct sampler {
    struct sampler_params params; /* biases: a copy of our own */
    int vocabulary;
    struct pcg32 generator;
    double *scores;  /* [vocabulary] */
    double *weights; /* [vocabulary] */
    int32_t *heap;   /* [vocabulary] ids */

    /* Kept only with a penalty; NULL without. */
    int32_t *seen; /* distinct tokens of prompt and answer */
    int seen_count;
    uint8_t *is_seen;   /* [vocabulary] */
    int32_t *generated; /* [vocabulary] occurrences in the answer */
};

struct sampler_params sampler_params_default(void) {
    return (struct sampler_params){.top_p = 1.0f, .repetition_penalty = 1.0f};
}

static enum err check_range(const char *name, float value, float min, float max) {
    if (value >= min && value <= max) { /* false for a NaN */
        return ERR_OK;
    }
    return err_fail(ERR_INVALID, "%s is %g: %g to %g expected", name, (double)value, (double)min,
                    (double)max);
}

enum err sampler_params_check(const struct sampler_params *params, int vocabulary) {
    if (vocabulary < 1) {
        return err_fail(ERR_INVALID, "vocabulary is %d: at least 1 expected", vocabulary);
    }
    TRY(check_range("temperature", params->temperature, 0.0f, 100.0f));
    if (params->top_k < 0) {
        return err_fail(ERR_INVALID, "top_k is %d: 0 (off) or more expected", params->top_k);
    }
    TRY(check_range("top_p", params->top_p, 0.0f, 1.0f));
    TRY(check_range("min_p", params->min_p, 0.0f, 1.0f));
    TRY(check_range("repetition_penalty", params->repetition_penalty, 0.01f, 100.0f));
    TRY(check_range("presence_penalty", params->presence_penalty, -100.0f, 100.0f));
    TRY(check_range("frequency_penalty", params->frequency_penalty, -100.0f, 100.0f));
    if (params->bias_count > 0 && params->biases == NULL) {
        return err_fail(ERR_INVALID, "biases is missing: %zu expected", params->bias_count);
    }
    for (size_t i = 0; i < params->bias_count; i++) {
        const struct sampler_bias *bias = &params->biases[i];
        if (bias->token < 0 || bias->token >= vocabulary) {
            return err_fail(ERR_INVALID, "biases[%zu] has token %d: 0 to %d expected", i,
                            (int)bias->token, vocabulary - 1);
        }
        if (!isfinite(bias->bias)) {
            return err_fail(ERR_INVALID, "biases[%zu] (token %d) is %g: a finite number expected",
                            i, (int)bias->token, (double)bias->bias);
        }
    }
    return ERR_OK;
}

static int has_penalty(const struct sampler_params *params) {
    return params->repetition_penalty != 1.0f || params->presence_penalty != 0.0f ||
           params->frequency_penalty != 0.0f;
}

/* Zeroed memory for COUNT things; *is_complete turns 0 if there is none. */
static void *reserve(size_t count, size_t bytes, int *is_complete) {
    void *memory = calloc(count, bytes);
    if (memory == NULL) {
        *is_complete = 0;
    }
    return memory;
}

enum err sampler_create(const struct sampler_params *params, int vocabulary, struct sampler **out) {
    TRY(sampler_params_check(params, vocabulary));
    struct sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL) {
        return err_fail(ERR_NOMEM, "a sampler");
    }
    size_t tokens = (size_t)vocabulary;
    int is_complete = 1;
    sampler->params = *params;
    sampler->params.biases = NULL;
    sampler->vocabulary = vocabulary;
    sampler->scores = reserve(tokens, sizeof *sampler->scores, &is_complete);
    sampler->weights = reserve(tokens, sizeof *sampler->weights, &is_complete);
    sampler->heap = reserve(tokens, sizeof *sampler->heap, &is_complete);
    if (has_penalty(params)) {
        sampler->seen = reserve(tokens, sizeof *sampler->seen, &is_complete);
        sampler->is_seen = reserve(tokens, sizeof *sampler->is_seen, &is_complete);
        sampler->generated = reserve(tokens, sizeof *sampler->generated, &is_complete);
    }
    if (params->bias_count > 0) {
        struct sampler_bias *biases =
            reserve(params->bias_count, sizeof *params->biases, &is_complete);
        if (biases != NULL) {
            memcpy(biases, params->biases, params->bias_count * sizeof *biases);
        }
        sampler->params.biases = biases;
    }
    if (!is_complete) {
        sampler_destroy(sampler);
        return err_fail(ERR_NOMEM, "a sampler for %d tokens", vocabulary);
    }
    pcg32_init(&sampler->generator, params->seed, PCG_SEQUENCE);
    *out = sampler;
    return ERR_OK;
}

void sampler_destroy(struct sampler *sampler) {
    if (sampler == NULL) {
        return;
    }
    free((void *)(uintptr_t)sampler->params.biases); /* ours, so the const may go */
    free(sampler->generated);
    free(sampler->is_seen);
    free(sampler->seen);
    free(sampler->heap);
    free(sampler->weights);
    free(sampler->scores);
    free(sampler);
}

/* --- history --------------------------------------------------------------------------- */

void sampler_accept_prompt(struct sampler *sampler, int32_t token) {
    assert(token >= 0 && token < sampler->vocabulary);
    if (sampler->seen != NULL && !sampler->is_seen[token]) {
        sampler->is_seen[token] = 1;
        sampler->seen[sampler->seen_count] = token;
        sampler->seen_count++;
    }
}

static void accept_generated(struct sampler *sampler, int32_t token) {
    sampler_accept_prompt(sampler, token);
    if (sampler->generated != NULL && sampler->generated[token] < INT32_MAX) {
        sampler->generated[token]++;
    }
}

/* --- scores ---------------------------------------------------------------------------- */

static enum err load_scores(struct sampler *sampler, const float *logits) {
    int is_bad = 0;
    int is_any = 0;
    for (int id = 0; id < sampler->vocabulary; id++) {
        is_bad |= !(logits[id] < INFINITY); /* a NaN too */
        is_any |= logits[id] > -INFINITY;
        sampler->scores[id] = (double)logits[id];
    }
    if (is_bad) {
        int id = 0;
        while (logits[id] < INFINITY) {
            id++;
        }
        return err_fail(ERR_DEVICE, "the logit of token %d is %g: a number or -inf expected", id,
                        (double)logits[id]);
    }
    if (!is_any) {
        return err_fail(ERR_DEVICE, "all %d logits are -inf: at least one number expected",
                        sampler->vocabulary);
    }
    return ERR_OK;
}

static void adjust_scores(struct sampler *sampler) {
    const struct sampler_params *params = &sampler->params;
    double *scores = sampler->scores;
    for (size_t i = 0; i < params->bias_count; i++) {
        scores[params->biases[i].token] += (double)params->biases[i].bias;
    }
    double repetition = (double)params->repetition_penalty;
    for (int i = 0; i < sampler->seen_count; i++) {
        int32_t id = sampler->seen[i];
        scores[id] = scores[id] > 0 ? scores[id] / repetition : scores[id] * repetition;
        int32_t occurrences = sampler->generated[id];
        if (occurrences > 0) {
            scores[id] -= (double)params->presence_penalty;
            scores[id] -= (double)params->frequency_penalty * (double)occurrences;
        }
    }
}

/*
 * The first token in rank. Maxima of four interleaved runs, then a look for where the highest
 * is: 0.03 ms for 100,352 where a loop that remembers the id took 0.08 to 0.35.
 */
static int32_t find_best(const struct sampler *sampler) {
    const double *scores = sampler->scores;
    double highest[MAXIMA] = {scores[0], scores[0], scores[0], scores[0]};
    int id = 0;
    for (; id + MAXIMA <= sampler->vocabulary; id += MAXIMA) {
        for (int i = 0; i < MAXIMA; i++) {
            highest[i] = scores[id + i] > highest[i] ? scores[id + i] : highest[i];
        }
    }
    for (; id < sampler->vocabulary; id++) {
        highest[0] = scores[id] > highest[0] ? scores[id] : highest[0];
    }
    for (int i = 1; i < MAXIMA; i++) {
        highest[0] = highest[i] > highest[0] ? highest[i] : highest[0];
    }
    int32_t best = 0;
    while (scores[best] != highest[0]) {
        best++;
    }
    return best;
}

/*
 * Step 3 for logits that nothing is added to: the first in rank, read once and as they are, by
 * MAXIMA vectors. Negative if one is a NaN or none is a finite number: load_scores says which.
 */
static int32_t find_best_logit(const float *logits, int count) {
    typedef float lanes __attribute__((vector_size(16)));
    typedef int32_t masks __attribute__((vector_size(16)));
    enum { LANES = sizeof(lanes) / sizeof(float) };
    lanes highest[MAXIMA] = {{0}};
    masks is_number = {-1, -1, -1, -1};
    for (int i = 0; i < MAXIMA; i++) {
        highest[i] -= INFINITY;
    }
    int id = 0;
    for (; id + MAXIMA * LANES <= count; id += MAXIMA * LANES) {
#pragma GCC unroll 4
        for (int i = 0; i < MAXIMA; i++) {
            lanes next;
            memcpy(&next, logits + id + i * LANES, sizeof next);
            masks is_higher = next > highest[i];
            is_number &= next == next;
            highest[i] = (lanes)(((masks)next & is_higher) | ((masks)highest[i] & ~is_higher));
        }
    }
    float best = -INFINITY;
    int is_sound = 1;
    for (int i = 0; i < MAXIMA * LANES; i++) {
        float lane = highest[i / LANES][i % LANES];
        best = lane > best ? lane : best;
        is_sound &= is_number[i % LANES] != 0;
    }
    for (; id < count; id++) {
        best = logits[id] > best ? logits[id] : best;
        is_sound &= logits[id] == logits[id];
    }
    if (!is_sound || !(best < INFINITY) || !(best > -INFINITY)) {
        return -1;
    }
    id = 0;
    while (logits[id] != best) {
        id++;
    }
    return id;
}

/* --- rank ------------------------------------------------------------------------------ */

static int is_before(const double *scores, int32_t a, int32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
}

/* A heap of ids: on top is the first in rank, or the last. */
struct id_heap {
    int32_t *ids;
    int count;
    int is_last_on_top;
    const double *scores;
};

static void sift_down(struct id_heap *heap, int place) {
    int32_t moving = heap->ids[place];
    for (;;) {
        int64_t child = 2 * (int64_t)place + 1;
        if (child >= heap->count) {
            break;
        }
        const int32_t *pair = &heap->ids[child];
        if (child + 1 < heap->count &&
            is_before(heap->scores, pair[1], pair[0]) != heap->is_last_on_top) {
            child++;
        }
        if (is_before(heap->scores, heap->ids[child], moving) == heap->is_last_on_top) {
            break;
        }
        heap->ids[place] = heap->ids[child];
        place = (int)child;
    }
    heap->ids[place] = moving;
}

static void build_heap(struct id_heap *heap) {
    for (int place = heap->count / 2 - 1; place >= 0; place--) {
        sift_down(heap, place);
    }
}

/* Leaves in the heap the first COUNT tokens in rank, 1 <= COUNT <= vocabulary. */
static void find_first(struct sampler *sampler, int count) {
    struct id_heap heap = {sampler->heap, count, 1, sampler->scores};
    for (int32_t id = 0; id < count; id++) {
        heap.ids[id] = id;
    }
    build_heap(&heap);
    double last = heap.scores[heap.ids[0]];
    for (int32_t id = count; id < sampler->vocabulary; id++) {
        if (heap.scores[id] > last) { /* an equal one has a higher id than those in the heap */
            heap.ids[0] = id;
            sift_down(&heap, 0);
            last = heap.scores[heap.ids[0]];
        }
    }
}

/* --- weights --------------------------------------------------------------------------- */

/* Steps 4 and 5. */
static void weigh(struct sampler *sampler, int32_t best) {
    const double *scores = sampler->scores;
    double *weights = sampler->weights;
    double temperature = (double)sampler->params.temperature;
    size_t tokens = (size_t)sampler->vocabulary;
    int top_k = sampler->params.top_k;
    if (top_k == 0 || top_k >= sampler->vocabulary) {
        for (size_t id = 0; id < tokens; id++) {
            weights[id] = (scores[id] - scores[best]) / temperature;
        }
        elementary_vector_exp(weights, tokens);
        return;
    }
    find_first(sampler, top_k);
    memset(weights, 0, tokens * sizeof *weights);
    for (int i = 0; i < top_k; i++) {
        int32_t id = sampler->heap[i];
        weights[id] = (scores[id] - scores[best]) / temperature;
        elementary_vector_exp(&weights[id], 1);
    }
}

static double sum_weights(const struct sampler *sampler) {
    double total = 0;
    for (int id = 0; id < sampler->vocabulary; id++) {
        total += sampler->weights[id];
    }
    return total;
}

/*
 * Step 6. Tokens of at most (1 - top_p) / 2 of an average token's weight sum to at most half of
 * what may be left out, so the run ends before it meets one, whatever the sums' rounding (some
 * 1e-11; 1 - top_p is at least 6e-8). They stay out of the heap, which leaves a few thousand of
 * 100,000 tokens in it.
 */
static void keep_top_p(struct sampler *sampler) {
    double top_p = (double)sampler->params.top_p;
    double total = sum_weights(sampler);
    double negligible = (1.0 - top_p) * total / (2.0 * (double)sampler->vocabulary);
    struct id_heap heap = {sampler->heap, 0, 0, sampler->scores};
    for (int32_t id = 0; id < sampler->vocabulary; id++) {
        if (sampler->weights[id] > negligible) {
            heap.ids[heap.count] = id;
            heap.count++;
        }
    }
    build_heap(&heap);
    double reached = sampler->weights[heap.ids[0]];
    while (reached < top_p * total && heap.count > 1) {
        heap.count--;
        heap.ids[0] = heap.ids[heap.count];
        sift_down(&heap, 0);
        reached += sampler->weights[heap.ids[0]];
    }
    int32_t last = heap.ids[0];
    for (int32_t id = 0; id < sampler->vocabulary; id++) {
        if (is_before(heap.scores, last, id)) {
            sampler->weights[id] = 0;
        }
    }
}

/* Step 7. */
static void keep_min_p(struct sampler *sampler, int32_t best) {
    double least = (double)sampler->params.min_p * sampler->weights[best];
    for (int id = 0; id < sampler->vocabulary; id++) {
        if (sampler->weights[id] < least) {
            sampler->weights[id] = 0;
        }
    }
}

/* Step 8. */
static int32_t draw(struct sampler *sampler) {
    double target = pcg32_next_unit(&sampler->generator) * sum_weights(sampler);
    double sum = 0;
    int32_t picked = 0;
    for (int32_t id = 0; id < sampler->vocabulary; id++) {
        if (sampler->weights[id] > 0) {
            picked = id; /* the last of them, should the target round up to the total */
            sum += sampler->weights[id];
            if (sum > target) {
                break;
            }
        }
    }
    return picked;
}

enum err sampler_sample(struct sampler *sampler, const float *logits, int32_t *out) {
    int is_plain = sampler->params.temperature == 0 && sampler->params.bias_count == 0 &&
                   sampler->seen == NULL;
    int32_t plain = is_plain ? find_best_logit(logits, sampler->vocabulary) : -1;
    if (plain >= 0) {
        *out = plain;
        return ERR_OK;
    }
    TRY(load_scores(sampler, logits));
    adjust_scores(sampler);
    int32_t best = find_best(sampler);
    int32_t token = best;
    if (sampler->params.temperature > 0) {
        weigh(sampler, best);
        if (sampler->params.top_p < 1) {
            keep_top_p(sampler);
        }
        if (sampler->params.min_p > 0) {
            keep_min_p(sampler, best);
        }
        token = draw(sampler);
    }
    accept_generated(sampler, token);
    *out = token;
    return ERR_OK;
}
