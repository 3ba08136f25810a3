/*
 * From a row of logits to a token: greedy, or temperature with top-k, top-p and
 * min-p, after logit bias and repetition, presence and frequency penalties.
 * Reproducible: the same logits, history, params and seed give the same token on
 * every machine. The generator is PCG-XSH-RR 64/32 (O'Neill 2014); exponentials
 * are those of base/elementary_vector.h. One sampler per request; not thread-safe.
 */
#ifndef TERN_ENGINE_SAMPLER_H
#define TERN_ENGINE_SAMPLER_H

#include "base/err.h"

struct sampler_bias {
    int32_t token;
    float bias; /* added to the logit */
};

/* sampler_params_default() is what applies where a request says nothing. */
struct sampler_params {
    float temperature; /* 0: greedy, the lowest id among equals */
    int top_k;         /* 0: off */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    float
        repetition_penalty;  /* 1: off; divides positive logits of seen tokens, multiplies others */
    float presence_penalty;  /* subtracted once from logits of tokens generated before */
    float frequency_penalty; /* subtracted per occurrence among generated tokens */
    uint64_t seed;
    const struct sampler_bias *biases; /* copied by sampler_create */
    size_t bias_count;
};

struct sampler;

struct sampler_params sampler_params_default(void); /* greedy, everything off, seed 0 */

/* ERR_INVALID names the param that is out of range (NaN included) and the range. */
MUST_USE enum err sampler_params_check(const struct sampler_params *params, int vocabulary);

/* Needs memory for VOCABULARY tokens, all of it allocated here. */
MUST_USE enum err sampler_create(const struct sampler_params *params, int vocabulary,
                                 struct sampler **out);
void sampler_destroy(struct sampler *sampler);

/* Tells of a token of the prompt (counts for the repetition penalty only). */
void sampler_accept_prompt(struct sampler *sampler, int32_t token);

/*
 * Picks from LOGITS [vocabulary], which stay as they are, and counts the token as generated.
 * ERR_DEVICE when one is NaN or +infinity, or all are -infinity; one -infinity is a token that is
 * never picked. With a temperature, each call draws once from the generator; greedy ones never do.
 */
MUST_USE enum err sampler_sample(struct sampler *sampler, const float *logits, int32_t *out);

#endif
