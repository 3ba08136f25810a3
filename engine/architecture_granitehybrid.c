/*
 * Architecture `granitehybrid`: Granite 4 H (and Bamba, which is converted to it).
 * Each block is a Mamba-2 mixer or grouped-query attention, then a SwiGLU. Granite's
 * multipliers; rotary positions only where rope.scaling.finetuned says so or is missing.
 */
#include "engine/model_shape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char architecture[] = "granitehybrid";

/* Two norms, three matrices of the feed forward, a mixer: what is allocated for a block stays in
 * proportion to what the file holds of it. */
enum { BLOCK_TENSORS_MIN = 6 };

/* Shapes and rope.* keys that all attention layers share. */
struct attention_keys {
    int head_size; /* 0: hidden / heads of the layer */
    int value_size;
    int rotates;
};

static enum err read_attention_keys(const struct gguf *file, struct attention_keys *out) {
    TRY(model_shape_get_size_or(file, architecture, "attention.key_length", 1, MODEL_SIZE_MAX, 0,
                                &out->head_size));
    TRY(model_shape_get_size_or(file, architecture, "attention.value_length", 1, MODEL_SIZE_MAX, 0,
                                &out->value_size));
    int finetuned = 1;
    enum err code = gguf_get_bool(file, "granitehybrid.rope.scaling.finetuned", &finetuned);
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    out->rotates = finetuned;
    return ERR_OK;
}

static enum err read_attention(const struct gguf *file, const struct model_shape *shape, int layer,
                               const struct attention_keys *keys, struct model_attention *out) {
    TRY(model_shape_get_layer_size(file, architecture, "attention.head_count", layer,
                                   MODEL_SIZE_MAX, &out->heads));
    if (out->heads < 1 || out->heads % out->kv_heads != 0) {
        return err_fail(ERR_FORMAT,
                        "block %d: %d attention heads are no multiple of its %d key/value heads",
                        layer, out->heads, out->kv_heads);
    }
    if (keys->head_size == 0 && shape->hidden % out->heads != 0) {
        return err_fail(ERR_FORMAT, "block %d: hidden size %d is no multiple of %d heads", layer,
                        shape->hidden, out->heads);
    }
    out->key_size = keys->head_size > 0 ? keys->head_size : shape->hidden / out->heads;
    out->value_size = keys->value_size > 0 ? keys->value_size : shape->hidden / out->heads;
    if ((int64_t)out->heads * out->key_size > MODEL_SIZE_MAX ||
        (int64_t)out->heads * out->value_size > MODEL_SIZE_MAX) {
        return err_fail(ERR_FORMAT, "block %d: %d attention heads of size %d", layer, out->heads,
                        out->key_size);
    }
    return ERR_OK;
}

static enum err read_mamba2(const struct gguf *file, struct model_mamba2 *out) {
    int inner = 0;
    TRY(model_shape_get_size(file, architecture, "ssm.time_step_rank", 1, MODEL_SIZE_MAX,
                             &out->heads));
    TRY(model_shape_get_size(file, architecture, "ssm.inner_size", 1, MODEL_SIZE_MAX, &inner));
    TRY(model_shape_get_size(file, architecture, "ssm.state_size", 1, MODEL_SIZE_MAX,
                             &out->state_size));
    TRY(model_shape_get_size(file, architecture, "ssm.group_count", 1, MODEL_SIZE_MAX,
                             &out->groups));
    TRY(model_shape_get_size(file, architecture, "ssm.conv_kernel", 2, 8, &out->taps));
    if (inner % out->heads != 0) {
        return err_fail(ERR_FORMAT, "ssm.inner_size %d is no multiple of %d heads", inner,
                        out->heads);
    }
    out->head_size = inner / out->heads;
    if (out->heads % out->groups != 0) {
        return err_fail(ERR_FORMAT, "%d SSM heads are no multiple of ssm.group_count %d",
                        out->heads, out->groups);
    }
    if ((int64_t)out->groups * out->state_size > MODEL_SIZE_MAX) {
        return err_fail(ERR_FORMAT, "%d SSM groups with state size %d", out->groups,
                        out->state_size);
    }
    return ERR_OK;
}

static enum err read_rope(const struct gguf *file, const struct attention_keys *keys,
                          struct model_shape *shape) {
    const struct model_attention *attention = NULL;
    for (int i = 0; i < shape->layer_count; i++) {
        const struct model_attention *candidate = &shape->layers[i].attention;
        if (candidate->heads == 0) {
            continue;
        }
        if (attention != NULL && attention->key_size != candidate->key_size) {
            return err_fail(ERR_UNSUPPORTED,
                            "rotary positions over heads of different sizes (%d and %d)",
                            attention->key_size, candidate->key_size);
        }
        attention = candidate;
    }
    if (!keys->rotates || attention == NULL) {
        return ERR_OK;
    }
    struct gguf_string scaling;
    enum err code = gguf_get_string(file, "granitehybrid.rope.scaling.type", &scaling);
    if (code == ERR_OK && !(scaling.len == 4 && memcmp(scaling.text, "none", 4) == 0)) {
        return err_fail(ERR_UNSUPPORTED, "key 'granitehybrid.rope.scaling.type' is '%.*s'",
                        (int)(scaling.len < 64 ? scaling.len : 64), scaling.text);
    }
    if (code != ERR_OK && code != ERR_NOT_FOUND) {
        return code;
    }
    int dimensions = 0;
    float base = 0.0f;
    TRY(model_shape_get_size_or(file, architecture, "rope.dimension_count", 2, attention->key_size,
                                attention->key_size, &dimensions));
    TRY(model_shape_get_factor(file, architecture, "rope.freq_base", 10000.0f, &base));
    if (dimensions % 2 != 0 || base <= 0.0f) {
        return err_fail(ERR_FORMAT, "rope.dimension_count %d with rope.freq_base %g", dimensions,
                        (double)base);
    }
    int is_partial = dimensions < attention->key_size;
    shape->rope = (struct model_rope){
        .pairs = dimensions / 2,
        .style = is_partial ? OP_ROPE_HALVES : OP_ROPE_NEIGHBOURS,
        .base = (double)base,
        .undo_interleaving = is_partial,
    };
    return ERR_OK;
}

static enum err read_layer(const struct gguf *file, struct model_shape *shape, int layer,
                           const struct attention_keys *keys) {
    struct model_layer_shape *out = &shape->layers[layer];
    int kv_heads = 0;
    TRY(model_shape_get_layer_size(file, architecture, "attention.head_count_kv", layer,
                                   MODEL_SIZE_MAX, &kv_heads));
    if (kv_heads > 0) {
        out->attention.kv_heads = kv_heads;
        TRY(read_attention(file, shape, layer, keys, &out->attention));
    } else {
        TRY(read_mamba2(file, &out->mamba2));
    }
    if (model_shape_find_tensor(file, layer, "ffn_gate_inp.weight") != NULL) {
        return err_fail(ERR_UNSUPPORTED,
                        "tensor 'blk.%d.ffn_gate_inp.weight': experts are not supported", layer);
    }
    TRY(model_shape_get_layer_size(file, architecture, "feed_forward_length", layer, MODEL_SIZE_MAX,
                                   &out->feed_forward));
    if (out->feed_forward < 1) {
        return err_fail(ERR_FORMAT, "key 'granitehybrid.feed_forward_length' is 0 for block %d",
                        layer);
    }
    return ERR_OK;
}

/* The scale that an attention layer uses where the file names none: 1 / sqrt(head size). */
static float default_attention_scale(const struct model_shape *shape) {
    for (int i = 0; i < shape->layer_count; i++) {
        if (shape->layers[i].attention.heads > 0) {
            return 1.0f / sqrtf((float)shape->layers[i].attention.key_size);
        }
    }
    return 1.0f;
}

enum err model_shape_read_granitehybrid(const struct gguf *file, struct model_shape *shape) {
    int blocks = 0, draft_blocks = 0;
    TRY(model_shape_get_size(file, architecture, "block_count", 1, MODEL_LAYERS_MAX, &blocks));
    TRY(model_shape_get_size_or(file, architecture, "nextn_predict_layers", 0, blocks - 1, 0,
                                &draft_blocks));
    TRY(model_shape_get_size(file, architecture, "embedding_length", 1, MODEL_SIZE_MAX,
                             &shape->hidden));
    TRY(model_shape_get_size(file, architecture, "context_length", 1, MODEL_CONTEXT_MAX,
                             &shape->context));
    TRY(model_shape_get_factor(file, architecture, "attention.layer_norm_rms_epsilon", 0.0f,
                               &shape->norm_eps));
    if (!(shape->norm_eps > 0.0f)) {
        return err_fail(ERR_FORMAT, "key 'granitehybrid.attention.layer_norm_rms_epsilon' is "
                                    "missing or not above 0");
    }
    TRY(model_shape_get_factor(file, architecture, "embedding_scale", 1.0f,
                               &shape->embedding_scale));
    TRY(model_shape_get_factor(file, architecture, "residual_scale", 1.0f, &shape->residual_scale));
    TRY(model_shape_get_factor(file, architecture, "logit_scale", 1.0f, &shape->logit_scale));

    shape->layer_count = blocks - draft_blocks;
    if ((size_t)shape->layer_count > gguf_tensor_count(file) / BLOCK_TENSORS_MIN) {
        return err_fail(ERR_FORMAT,
                        "key 'granitehybrid.block_count' says %d blocks, expected at most %zu in a "
                        "file of %zu tensors",
                        blocks, gguf_tensor_count(file) / BLOCK_TENSORS_MIN,
                        gguf_tensor_count(file));
    }
    shape->layers = calloc((size_t)shape->layer_count, sizeof *shape->layers);
    if (shape->layers == NULL) {
        return err_fail(ERR_NOMEM, "shape of %d layers", shape->layer_count);
    }
    struct attention_keys keys = {0};
    TRY(read_attention_keys(file, &keys));
    for (int i = 0; i < shape->layer_count; i++) {
        TRY(read_layer(file, shape, i, &keys));
    }
    TRY(model_shape_get_factor(file, architecture, "attention.scale",
                               default_attention_scale(shape), &shape->attention_scale));
    return read_rope(file, &keys, shape);
}
