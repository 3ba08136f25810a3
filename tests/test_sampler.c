#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/elementary_vector.h"
#include "base/pcg32.h"
#include "engine/sampler.h"

enum { DRAWS = 20000 };

static struct sampler *create(const struct sampler_params *params, int vocabulary) {
    struct sampler *sampler = NULL;
    if (sampler_create(params, vocabulary, &sampler) != ERR_OK) {
        fail_msg("%s", err_message());
    }
    return sampler;
}

static int32_t sample(struct sampler *sampler, const float *logits) {
    int32_t token = -1;
    if (sampler_sample(sampler, logits, &token) != ERR_OK) {
        fail_msg("%s", err_message());
    }
    return token;
}

static int32_t sample_once(const struct sampler_params *params, const float *logits,
                           int vocabulary) {
    struct sampler *sampler = create(params, vocabulary);
    int32_t token = sample(sampler, logits);
    sampler_destroy(sampler);
    return token;
}

/* counts[i]: how often token i comes in DRAWS draws. */
static void count_draws(const struct sampler_params *params, const float *logits, int vocabulary,
                        int *counts) {
    struct sampler *sampler = create(params, vocabulary);
    memset(counts, 0, (size_t)vocabulary * sizeof *counts);
    for (int i = 0; i < DRAWS; i++) {
        counts[sample(sampler, logits)]++;
    }
    sampler_destroy(sampler);
}

static double exp_of(double x) {
    elementary_vector_exp(&x, 1);
    return x;
}

/* Within five standard deviations of a binomial count; exactly none where probability is 0. */
static void assert_share(int count, double probability) {
    double deviation = sqrt(DRAWS * probability * (1 - probability));
    if (fabs(count - DRAWS * probability) > 5 * deviation) {
        fail_msg("%d of %d draws, where the probability is %g", count, DRAWS, probability);
    }
}

static struct sampler_params hot(float temperature) {
    struct sampler_params params = sampler_params_default();
    params.temperature = temperature;
    params.seed = 7;
    return params;
}

/* --- greedy ---------------------------------------------------------------------------- */

static void test_sampler_default_is_greedy(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    const float logits[] = {-1.0f, 2.0f, 0.5f};
    assert_int_equal(sample_once(&params, logits, 3), 1);
}

static void test_sampler_greedy_takes_the_lowest_of_equals(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    const float logits[] = {-INFINITY, 3.0f, 1.0f, 3.0f, 3.0f};
    assert_int_equal(sample_once(&params, logits, 5), 1);
    const float zeros[] = {-1.0f, -0.0f, 0.0f};
    assert_int_equal(sample_once(&params, zeros, 3), 1);
}

/* The best and its equal at every place, for vocabularies of every remainder. */
static void test_sampler_greedy_finds_the_best_anywhere(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    for (int vocabulary = 1; vocabulary <= 13; vocabulary++) {
        for (int best = 0; best < vocabulary; best++) {
            for (int equal = best; equal < vocabulary; equal++) {
                float logits[13];
                for (int id = 0; id < vocabulary; id++) {
                    logits[id] = id == best || id == equal ? -1.0f : -2.0f - (float)id;
                }
                assert_int_equal(sample_once(&params, logits, vocabulary), best);
            }
        }
    }
}

static void test_sampler_leaves_the_logits(void **state) {
    (void)state;
    const struct sampler_bias bias = {2, 5.0f};
    struct sampler_params params = hot(0.5f);
    params.repetition_penalty = 2.0f;
    params.biases = &bias;
    params.bias_count = 1;
    const float before[] = {1.0f, 2.0f, 3.0f};
    float logits[3];
    memcpy(logits, before, sizeof logits);
    struct sampler *sampler = create(&params, 3);
    for (int i = 0; i < 10; i++) {
        (void)sample(sampler, logits);
    }
    sampler_destroy(sampler);
    assert_memory_equal(logits, before, sizeof logits);
}

/* --- logits that cannot be used -------------------------------------------------------- */

static void test_sampler_refuses_broken_logits(void **state) {
    (void)state;
    const struct {
        float logits[3];
        const char *message;
    } cases[] = {
        {{0.0f, NAN, 1.0f}, "token 1"},
        {{0.0f, 1.0f, -NAN}, "token 2"},
        {{INFINITY, 0.0f, 0.0f}, "token 0"},
        {{-INFINITY, -INFINITY, -INFINITY}, "all 3 logits"},
    };
    for (int is_hot = 0; is_hot < 2; is_hot++) {
        struct sampler_params params = hot(is_hot ? 1.0f : 0.0f);
        struct sampler *sampler = create(&params, 3);
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            int32_t token = -7;
            assert_int_equal(sampler_sample(sampler, cases[i].logits, &token), ERR_DEVICE);
            assert_non_null(strstr(err_message(), cases[i].message));
            assert_int_equal(token, -7);
        }
        sampler_destroy(sampler);
    }
}

static void test_sampler_never_picks_minus_infinity(void **state) {
    (void)state;
    struct sampler_params params = hot(100.0f);
    const float logits[] = {-INFINITY, 0.0f, -INFINITY, -3.0e38f, 1.0f, -INFINITY};
    int counts[6];
    count_draws(&params, logits, 6, counts);
    assert_int_equal(counts[0] + counts[2] + counts[3] + counts[5], 0);
    assert_true(counts[1] > 0 && counts[4] > 0);
    params.top_k = 5;
    count_draws(&params, logits, 6, counts);
    assert_int_equal(counts[0] + counts[2] + counts[3] + counts[5], 0);
}

static void test_sampler_takes_the_largest_floats(void **state) {
    (void)state;
    const struct sampler_bias bias = {1, 3.4e38f};
    struct sampler_params params = hot(1e-45f);
    params.biases = &bias;
    params.bias_count = 1;
    const float logits[] = {3.4e38f, 3.4e38f, -3.4e38f};
    assert_int_equal(sample_once(&params, logits, 3), 1);
}

/* --- the distribution ------------------------------------------------------------------ */

static const float SEVEN_LOGITS[] = {1.0f, -2.0f, 0.25f, 3.0f, 1.0f, -0.5f, 2.0f};

static void test_sampler_draws_by_softmax(void **state) {
    (void)state;
    const float temperatures[] = {0.5f, 1.0f, 2.5f};
    for (size_t t = 0; t < ARRAY_LEN(temperatures); t++) {
        struct sampler_params params = hot(temperatures[t]);
        int counts[7];
        count_draws(&params, SEVEN_LOGITS, 7, counts);
        double total = 0;
        for (int i = 0; i < 7; i++) {
            total += exp((double)SEVEN_LOGITS[i] / (double)temperatures[t]);
        }
        for (int i = 0; i < 7; i++) {
            assert_share(counts[i], exp((double)SEVEN_LOGITS[i] / (double)temperatures[t]) / total);
        }
    }
}

/* The definition in sampler.c, step 8, spelt out: which token goes with which drawn number. */
static void test_sampler_walks_by_rising_id(void **state) {
    (void)state;
    struct sampler_params params = hot(0.75f);
    params.seed = 42;
    struct pcg32 generator;
    pcg32_init(&generator, 42, 54);
    struct sampler *sampler = create(&params, 7);
    for (int i = 0; i < 1000; i++) {
        double weights[7];
        double total = 0;
        for (int id = 0; id < 7; id++) {
            weights[id] = exp_of(((double)SEVEN_LOGITS[id] - 3.0) / 0.75);
            total += weights[id];
        }
        double target = pcg32_next_unit(&generator) * total;
        int expected = 0;
        for (double sum = weights[0]; sum <= target; sum += weights[expected]) {
            expected++;
        }
        assert_int_equal(sample(sampler, SEVEN_LOGITS), expected);
    }
    sampler_destroy(sampler);
}

static void test_sampler_repeats_itself(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    params.frequency_penalty = 0.1f;
    params.top_p = 0.95f;
    enum { TOKENS = 200 };
    int32_t first[TOKENS];
    int differ = 0;
    for (int run = 0; run < 3; run++) {
        params.seed = run < 2 ? 1 : 2;
        struct sampler *sampler = create(&params, 7);
        for (int i = 0; i < TOKENS; i++) {
            int32_t token = sample(sampler, SEVEN_LOGITS);
            if (run == 0) {
                first[i] = token;
            } else if (run == 1) {
                assert_int_equal(token, first[i]);
            } else {
                differ += token != first[i];
            }
        }
        sampler_destroy(sampler);
    }
    assert_true(differ > 20);
}

/* --- filters --------------------------------------------------------------------------- */

static void test_sampler_top_k_keeps_the_best(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    params.top_k = 2; /* ids 3 and 6 */
    int counts[7];
    count_draws(&params, SEVEN_LOGITS, 7, counts);
    double share = 1 / (1 + exp(-1.0));
    assert_share(counts[3], share);
    assert_share(counts[6], 1 - share);
    assert_int_equal(counts[3] + counts[6], DRAWS);
}

static void test_sampler_top_k_breaks_ties_by_id(void **state) {
    (void)state;
    const float logits[] = {0.0f, 1.0f, 1.0f, 0.5f, 1.0f, 1.0f};
    struct sampler_params params = hot(1.0f);
    int counts[6];
    params.top_k = 3;
    count_draws(&params, logits, 6, counts);
    assert_share(counts[1], 1.0 / 3);
    assert_share(counts[2], 1.0 / 3);
    assert_share(counts[4], 1.0 / 3);
    assert_int_equal(counts[5], 0);
    params.top_k = 1;
    assert_int_equal(sample_once(&params, logits, 6), 1);
}

static void test_sampler_top_k_at_or_above_the_vocabulary_is_off(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    int expected[7];
    count_draws(&params, SEVEN_LOGITS, 7, expected);
    const int values[] = {7, 8, INT32_MAX};
    for (size_t i = 0; i < ARRAY_LEN(values); i++) {
        int counts[7];
        params.top_k = values[i];
        count_draws(&params, SEVEN_LOGITS, 7, counts);
        assert_memory_equal(counts, expected, sizeof counts);
    }
}

/* Shares 1/2, 1/4, 1/8, 1/8, the sums exact. */
static const float HALVES[] = {-2.0794415416798357f, -0.6931471805599453f, -1.3862943611198906f,
                               -2.0794415416798357f};

static void test_sampler_top_p_keeps_the_shortest_run(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    int counts[4];
    params.top_p = 0.6f;
    count_draws(&params, HALVES, 4, counts);
    assert_share(counts[1], 2.0 / 3);
    assert_share(counts[2], 1.0 / 3);
    assert_int_equal(counts[1] + counts[2], DRAWS);
    params.top_p = 0.8f; /* of the two equals the lower id */
    count_draws(&params, HALVES, 4, counts);
    assert_share(counts[0], 1.0 / 7);
    assert_share(counts[1], 4.0 / 7);
    assert_share(counts[2], 2.0 / 7);
    assert_int_equal(counts[3], 0);
    params.top_p = 0.0f; /* the best always stays */
    count_draws(&params, HALVES, 4, counts);
    assert_int_equal(counts[1], DRAWS);
}

static void test_sampler_top_p_is_of_what_top_k_left(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    params.top_k = 2; /* shares 2/3 and 1/3 */
    params.top_p = 0.65f;
    int counts[4];
    count_draws(&params, HALVES, 4, counts);
    assert_int_equal(counts[1], DRAWS);
    params.top_k = 3; /* shares 4/7, 2/7, 1/7 */
    count_draws(&params, HALVES, 4, counts);
    assert_share(counts[1], 2.0 / 3);
    assert_share(counts[2], 1.0 / 3);
    assert_int_equal(counts[0] + counts[3], 0);
}

static void test_sampler_min_p_is_relative_to_the_best(void **state) {
    (void)state;
    struct sampler_params params = hot(1.0f);
    int counts[4];
    params.min_p = 0.4f; /* ratios 1/4, 1, 1/2, 1/4 */
    count_draws(&params, HALVES, 4, counts);
    assert_share(counts[1], 2.0 / 3);
    assert_share(counts[2], 1.0 / 3);
    assert_int_equal(counts[0] + counts[3], 0);
    params.min_p = 0.2f;
    count_draws(&params, HALVES, 4, counts);
    assert_share(counts[0], 1.0 / 8);
    params.min_p = 1.0f;
    const float equals[] = {1.0f, 2.0f, 2.0f, 1.5f};
    count_draws(&params, equals, 4, counts);
    assert_share(counts[1], 1.0 / 2);
    assert_share(counts[2], 1.0 / 2);
}

/* --- against a full sort --------------------------------------------------------------- */

struct ranked {
    double score;
    int32_t id;
};

static int compare_rank(const void *left, const void *right) {
    const struct ranked *a = left;
    const struct ranked *b = right;
    if (a->score != b->score) {
        return a->score > b->score ? -1 : 1;
    }
    return a->id < b->id ? -1 : 1;
}

/* Steps 4 to 8 of sampler.c by sorting everything. */
static int32_t sample_by_sorting(const struct sampler_params *params, const float *logits,
                                 int vocabulary, double unit) {
    struct ranked *rank = calloc((size_t)vocabulary, sizeof *rank);
    double *weights = calloc((size_t)vocabulary, sizeof *weights);
    assert_non_null(rank);
    assert_non_null(weights);
    for (int32_t id = 0; id < vocabulary; id++) {
        rank[id] = (struct ranked){(double)logits[id], id};
    }
    qsort(rank, (size_t)vocabulary, sizeof *rank, compare_rank);
    int kept = params->top_k > 0 && params->top_k < vocabulary ? params->top_k : vocabulary;
    for (int i = 0; i < kept; i++) {
        weights[rank[i].id] = exp_of((rank[i].score - rank[0].score) / (double)params->temperature);
    }
    double total = 0;
    for (int id = 0; id < vocabulary; id++) {
        total += weights[id];
    }
    double reached = 0;
    for (int i = 0; i < kept; i++) {
        int is_reached = params->top_p < 1 && i > 0 && reached >= (double)params->top_p * total;
        reached += weights[rank[i].id];
        if (is_reached || weights[rank[i].id] < (double)params->min_p) {
            weights[rank[i].id] = 0;
        }
    }
    total = 0;
    for (int id = 0; id < vocabulary; id++) {
        total += weights[id];
    }
    int32_t picked = 0;
    double sum = weights[0];
    while (sum <= unit * total) {
        picked++;
        sum += weights[picked];
    }
    free(weights);
    free(rank);
    return picked;
}

static void test_sampler_equals_a_full_sort(void **state) {
    (void)state;
    enum { VOCABULARY = 3000, ROUNDS = 300 };
    static float logits[VOCABULARY];
    struct pcg32 chance;
    pcg32_init(&chance, 99, 1);
    for (int round = 0; round < ROUNDS; round++) {
        int vocabulary = 1 + (int)(pcg32_next(&chance) % (round < 100 ? 12 : VOCABULARY));
        float width = round % 3 == 0 ? 2.0f : 12.0f;
        for (int id = 0; id < vocabulary; id++) {
            /* Few distinct values now and then, so that ties stand at the cut. */
            float value = (float)pcg32_next_unit(&chance) * width;
            logits[id] = round % 2 == 0 ? value : (float)(int)value;
        }
        struct sampler_params params = hot(0.25f + (float)pcg32_next_unit(&chance));
        params.seed = pcg32_next(&chance);
        params.top_k = round % 4 == 1 ? 0 : (int)(pcg32_next(&chance) % 60);
        params.top_p = round % 4 == 2 ? 1.0f : (float)pcg32_next_unit(&chance);
        params.min_p = round % 4 == 3 ? 0.1f * (float)pcg32_next_unit(&chance) : 0.0f;
        struct pcg32 generator;
        pcg32_init(&generator, params.seed, 54);
        int32_t expected =
            sample_by_sorting(&params, logits, vocabulary, pcg32_next_unit(&generator));
        int32_t token = sample_once(&params, logits, vocabulary);
        if (token != expected) {
            fail_msg("round %d: token %d, by sorting %d", round, token, expected);
        }
    }
}

/* --- biases and penalties -------------------------------------------------------------- */

static void test_sampler_adds_biases(void **state) {
    (void)state;
    const float logits[] = {1.0f, 2.0f, 3.0f, -INFINITY};
    struct sampler_bias biases[] = {{0, 1.5f}, {2, -100.0f}, {0, 1.0f}, {3, 100.0f}};
    struct sampler_params params = sampler_params_default();
    params.biases = biases;
    params.bias_count = ARRAY_LEN(biases);
    struct sampler *sampler = create(&params, 4);
    biases[0].bias = -50.0f; /* the sampler has a copy */
    assert_int_equal(sample(sampler, logits), 0);
    sampler_destroy(sampler);
    params.bias_count = 2;
    assert_int_equal(sample_once(&params, logits, 4), 1);
}

static void test_sampler_bias_comes_before_the_penalty(void **state) {
    (void)state;
    /* (1 + 3) / 4 = 1 loses to 1.5; 1 / 4 + 3 would win. */
    const float logits[] = {1.0f, 1.5f};
    const struct sampler_bias bias = {0, 3.0f};
    struct sampler_params params = sampler_params_default();
    params.biases = &bias;
    params.bias_count = 1;
    params.repetition_penalty = 4.0f;
    struct sampler *sampler = create(&params, 2);
    sampler_accept_prompt(sampler, 0);
    assert_int_equal(sample(sampler, logits), 1);
    sampler_destroy(sampler);
}

static void test_sampler_repetition_penalty_divides_or_multiplies(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    params.repetition_penalty = 2.0f;
    const float positive[] = {3.0f, 2.0f, 1.4f};
    struct sampler *sampler = create(&params, 3);
    assert_int_equal(sample(sampler, positive), 0);
    assert_int_equal(sample(sampler, positive), 1); /* 1.5 against 2 */
    assert_int_equal(sample(sampler, positive), 0); /* 1.5, 1, 1.4; once, not per occurrence */
    assert_int_equal(sample(sampler, positive), 0);
    sampler_destroy(sampler);
    const float negative[] = {-1.0f, -1.5f, -4.0f};
    sampler = create(&params, 3);
    sampler_accept_prompt(sampler, 0);
    sampler_accept_prompt(sampler, 0);
    assert_int_equal(sample(sampler, negative), 1); /* -2 against -1.5 */
    assert_int_equal(sample(sampler, negative), 0); /* -2 against -3 */
    sampler_destroy(sampler);
}

static void test_sampler_presence_penalty_counts_once(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    params.presence_penalty = 1.0f;
    const float logits[] = {2.5f, 2.0f, 0.0f};
    struct sampler *sampler = create(&params, 3);
    sampler_accept_prompt(sampler, 0); /* the prompt does not count here */
    assert_int_equal(sample(sampler, logits), 0);
    assert_int_equal(sample(sampler, logits), 1); /* 1.5 against 2 */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(sample(sampler, logits), 0); /* 1.5, 1, 0: never less */
    }
    sampler_destroy(sampler);
}

static void test_sampler_frequency_penalty_grows(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    params.frequency_penalty = 0.5f;
    const float logits[] = {2.2f, 1.0f};
    struct sampler *sampler = create(&params, 2);
    sampler_accept_prompt(sampler, 0);
    const int expected[] = {0, 0, 0, 1, 0, 1, 0};
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        assert_int_equal(sample(sampler, logits), expected[i]);
    }
    sampler_destroy(sampler);
}

static void test_sampler_negative_penalties_encourage(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    params.presence_penalty = -2.0f;
    const float first[] = {1.0f, 0.0f};
    const float second[] = {0.0f, 1.0f};
    struct sampler *sampler = create(&params, 2);
    assert_int_equal(sample(sampler, first), 0);
    assert_int_equal(sample(sampler, second), 0);
    sampler_destroy(sampler);
}

/* --- params ---------------------------------------------------------------------------- */

static void assert_refused(const struct sampler_params *params, int vocabulary, const char *name) {
    struct sampler *sampler = NULL;
    assert_int_equal(sampler_params_check(params, vocabulary), ERR_INVALID);
    assert_non_null(strstr(err_message(), name));
    assert_non_null(strstr(err_message(), "expected"));
    assert_int_equal(sampler_create(params, vocabulary, &sampler), ERR_INVALID);
    assert_null(sampler);
}

static void test_sampler_params_out_of_range_are_named(void **state) {
    (void)state;
    const struct {
        const char *name;
        size_t offset;
        float values[4];
    } cases[] = {
        {"temperature",
         offsetof(struct sampler_params, temperature),
         {-0.1f, 100.5f, NAN, INFINITY}},
        {"top_p", offsetof(struct sampler_params, top_p), {-0.1f, 1.01f, NAN, -INFINITY}},
        {"min_p", offsetof(struct sampler_params, min_p), {-0.1f, 1.01f, NAN, INFINITY}},
        {"repetition_penalty",
         offsetof(struct sampler_params, repetition_penalty),
         {0.0f, -1.0f, NAN, INFINITY}},
        {"presence_penalty",
         offsetof(struct sampler_params, presence_penalty),
         {-101.0f, 101.0f, NAN, INFINITY}},
        {"frequency_penalty",
         offsetof(struct sampler_params, frequency_penalty),
         {-101.0f, 101.0f, NAN, INFINITY}},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t j = 0; j < ARRAY_LEN(cases[i].values); j++) {
            struct sampler_params params = sampler_params_default();
            memcpy((char *)&params + cases[i].offset, &cases[i].values[j], sizeof(float));
            assert_refused(&params, 10, cases[i].name);
        }
    }
    struct sampler_params params = sampler_params_default();
    params.top_k = -1;
    assert_refused(&params, 10, "top_k");
    params = sampler_params_default();
    assert_refused(&params, 0, "vocabulary");
}

static void test_sampler_biases_out_of_range_are_named(void **state) {
    (void)state;
    const struct sampler_bias wrong[] = {{-1, 0.0f}, {10, 0.0f}, {9, NAN}, {9, -INFINITY}};
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        const struct sampler_bias biases[] = {{0, 1.0f}, wrong[i]};
        struct sampler_params params = sampler_params_default();
        params.biases = biases;
        params.bias_count = 2;
        assert_refused(&params, 10, "biases[1]");
    }
    struct sampler_params params = sampler_params_default();
    params.bias_count = 1;
    assert_refused(&params, 10, "biases");
}

static void test_sampler_takes_the_ends_of_the_ranges(void **state) {
    (void)state;
    struct sampler_params params = sampler_params_default();
    assert_int_equal(sampler_params_check(&params, 1), ERR_OK);
    params.temperature = 100.0f;
    params.top_k = INT32_MAX;
    params.top_p = 0.0f;
    params.min_p = 1.0f;
    params.repetition_penalty = 0.01f;
    params.presence_penalty = -100.0f;
    params.frequency_penalty = 100.0f;
    const float logit = -1.0f;
    assert_int_equal(sample_once(&params, &logit, 1), 0);
    sampler_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_default_is_greedy),
        cmocka_unit_test(test_sampler_greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(test_sampler_greedy_finds_the_best_anywhere),
        cmocka_unit_test(test_sampler_leaves_the_logits),
        cmocka_unit_test(test_sampler_refuses_broken_logits),
        cmocka_unit_test(test_sampler_never_picks_minus_infinity),
        cmocka_unit_test(test_sampler_takes_the_largest_floats),
        cmocka_unit_test(test_sampler_draws_by_softmax),
        cmocka_unit_test(test_sampler_walks_by_rising_id),
        cmocka_unit_test(test_sampler_repeats_itself),
        cmocka_unit_test(test_sampler_top_k_keeps_the_best),
        cmocka_unit_test(test_sampler_top_k_breaks_ties_by_id),
        cmocka_unit_test(test_sampler_top_k_at_or_above_the_vocabulary_is_off),
        cmocka_unit_test(test_sampler_top_p_keeps_the_shortest_run),
        cmocka_unit_test(test_sampler_top_p_is_of_what_top_k_left),
        cmocka_unit_test(test_sampler_min_p_is_relative_to_the_best),
        cmocka_unit_test(test_sampler_equals_a_full_sort),
        cmocka_unit_test(test_sampler_adds_biases),
        cmocka_unit_test(test_sampler_bias_comes_before_the_penalty),
        cmocka_unit_test(test_sampler_repetition_penalty_divides_or_multiplies),
        cmocka_unit_test(test_sampler_presence_penalty_counts_once),
        cmocka_unit_test(test_sampler_frequency_penalty_grows),
        cmocka_unit_test(test_sampler_negative_penalties_encourage),
        cmocka_unit_test(test_sampler_params_out_of_range_are_named),
        cmocka_unit_test(test_sampler_biases_out_of_range_are_named),
        cmocka_unit_test(test_sampler_takes_the_ends_of_the_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
