/*
 * What a model is made of, read from a GGUF's metadata and tensor table without
 * touching a weight: sizes, multipliers, and for each layer which parts it has.
 * Everything downstream (forward pass, pools, tools) goes by this table; only
 * the readers in architecture_*.c know architectures by name.
 *
 * The file is untrusted: sizes are bounded here, and every tensor that the shape
 * calls for is checked against it when loaded.
 */
#ifndef TERN_ENGINE_MODEL_SHAPE_H
#define TERN_ENGINE_MODEL_SHAPE_H

#include "engine/gguf.h"
#include "store/layout.h"

/* No size of a model may pass this: products of two stay within 64 bits with room to spare. */
enum { MODEL_SIZE_MAX = 1 << 24, MODEL_LAYERS_MAX = 4096, MODEL_CONTEXT_MAX = 1 << 24 };

/* Grouped-query attention (Ainslie et al. 2023). heads == 0: the layer has none. */
struct model_attention {
    int heads;
    int kv_heads;
    int key_size;
    int value_size;
    int kv_index; /* in the layout */
};

/* A Mamba-2 mixer (Dao and Gu 2024). heads == 0: the layer has none. */
struct model_mamba2 {
    int heads;
    int head_size;
    int state_size;
    int groups;
    int taps;
    int conv_index; /* in the layout: [taps - 1][channels] */
    int ssm_index;  /* in the layout: [heads][state_size][head_size] */
};

static inline int model_mamba2_inner(const struct model_mamba2 *mamba2) {
    return mamba2->heads * mamba2->head_size;
}

/* Channels of the convolution: x, B and C together. */
static inline int model_mamba2_channels(const struct model_mamba2 *mamba2) {
    return model_mamba2_inner(mamba2) + 2 * mamba2->groups * mamba2->state_size;
}

/* x += mixer(norm(x)) * residual_scale, then x += SwiGLU(norm(x)) * residual_scale. */
struct model_layer_shape {
    struct model_attention attention;
    struct model_mamba2 mamba2;
    int feed_forward; /* width of the SwiGLU */
};

/* Rotary positions; pairs == 0: none. */
struct model_rope {
    int pairs;
    enum op_rope_style style;
    double base;
    /* Query and key rows come interleaved over the whole head while only its first 2 * pairs
     * dimensions rotate by halves: put even dimensions first, then odd ones (Bamba). */
    int undo_interleaving;
};

struct model_shape {
    char architecture[32];
    char name[128];
    int hidden;
    int vocabulary;
    int context; /* what the model was made for */
    int layer_count;
    float norm_eps;
    float embedding_scale; /* embeddings times this */
    float residual_scale;  /* each half's output times this before it is added */
    float attention_scale; /* scores times this */
    float logit_scale;     /* logits divided by this */
    struct model_rope rope;
    int has_output_weight; /* 0: the embedding serves */
    struct model_layer_shape *layers;
};

/*
 * ERR_UNSUPPORTED for an architecture or a part of one that this build does not run; ERR_FORMAT
 * names the key that is missing or out of range. model_shape_done frees what the shape owns.
 */
MUST_USE enum err model_shape_read(const struct gguf *file, struct model_shape *out);
void model_shape_done(struct model_shape *shape);

/* Fills LAYOUT with the shape's KV and state entries and the shape with their indices. */
MUST_USE enum err model_shape_layout(struct model_shape *shape, int block_size, enum dtype kv_type,
                                     struct layout *layout);

/* --- for the readers ------------------------------------------------------------------ */

/* Keys under the architecture's prefix. The value must lie in [min, max]: ERR_FORMAT names it. */
MUST_USE enum err model_shape_get_size(const struct gguf *file, const char *architecture,
                                       const char *key, int min, int max, int *out);

/* The same with a default when the key is missing. */
MUST_USE enum err model_shape_get_size_or(const struct gguf *file, const char *architecture,
                                          const char *key, int min, int max, int fallback,
                                          int *out);

/* Element LAYER of an array of one value a block, or the scalar that stands for all. */
MUST_USE enum err model_shape_get_layer_size(const struct gguf *file, const char *architecture,
                                             const char *key, int layer, int max, int *out);

/* A finite float; a missing key or 0 gives FALLBACK. */
MUST_USE enum err model_shape_get_factor(const struct gguf *file, const char *architecture,
                                         const char *key, float fallback, float *out);

/* Writes "blk.LAYER.SUFFIX" and finds that tensor; NULL when there is none. */
const struct gguf_tensor *model_shape_find_tensor(const struct gguf *file, int layer,
                                                  const char *suffix);

/* One per architecture: fills everything but architecture, name and vocabulary. */
MUST_USE enum err model_shape_read_granitehybrid(const struct gguf *file,
                                                 struct model_shape *shape);

#endif
