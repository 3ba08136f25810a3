/*
 * Small granitehybrid models as GGUF files in memory, right by default and wrong where a test asks
 * for it. Weights are small pseudo-random numbers, the same on every machine. Running out of
 * memory aborts the test.
 */
#ifndef TERN_TESTS_MODEL_IMAGE_H
#define TERN_TESTS_MODEL_IMAGE_H

#include "tests/gguf/gguf_builder.h"

struct model_image {
    const char *layers; /* a letter a block: M Mamba-2, A attention */
    int hidden;
    int heads;
    int kv_heads;
    int head_size; /* 0: no key attention.key_length, hidden / heads */
    int ssm_heads;
    int ssm_head_size;
    int ssm_groups;
    int ssm_state;
    int taps;
    int feed_forward;
    int rope_dimensions; /* 0: no rotary positions */
    enum dtype type;     /* of the matrices */
    int has_output;
    int has_biases;
    int has_no_tokenizer;
    const char *without;                       /* a key or tensor that is left out */
    void (*add)(struct gguf_builder *builder); /* what comes in its place; NULL: nothing */
};

/* Two Mamba-2 blocks around an attention block, F32, 256 tokens. */
struct model_image model_image_default(void);

/* The whole file in a block of exactly *bytes, to be freed by the caller. */
uint8_t *model_image_file(const struct model_image *image, size_t *bytes);

#endif
