#include "engine/model.h"

#include "base/elementary.h"
#include "engine/vector_arena.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 96 };

/* What loading needs at every step. */
struct loader {
    const struct gguf *file;
    struct device *device;
    struct vector_arena vectors;
};

/* --- tensors -------------------------------------------------------------------------- */

static enum err find(const struct loader *loader, const char *name,
                     const struct gguf_tensor **out) {
    *out = gguf_find_tensor(loader->file, name);
    if (*out == NULL) {
        return err_fail(ERR_FORMAT, "tensor '%s' is missing", name);
    }
    if (!(*out)->is_supported) {
        return err_fail(ERR_UNSUPPORTED, "tensor '%s' has type %s, which is not supported", name,
                        gguf_tensor_type_name((*out)->type_number));
    }
    return ERR_OK;
}

/* An F32 array of VALUES values, whatever its rank: tools drop trailing dimensions of 1. */
static enum err find_vector(const struct loader *loader, const char *name, size_t values,
                            const struct gguf_tensor **out) {
    TRY(find(loader, name, out));
    if ((*out)->type != DTYPE_F32 || (*out)->values != values) {
        return err_fail(ERR_FORMAT, "tensor '%s' is %llu values of %s, expected %zu of F32", name,
                        (unsigned long long)(*out)->values, dtype_name((*out)->type), values);
    }
    return ERR_OK;
}

static enum err load_vector(struct loader *loader, const char *name, size_t values,
                            struct device_ptr *out) {
    const struct gguf_tensor *tensor = NULL;
    TRY(find_vector(loader, name, values, &tensor));
    return vector_arena_add(&loader->vectors, tensor->data, tensor->bytes, out, NULL);
}

/* Leaves *out as "none" when the file has no such tensor. */
static enum err load_vector_if_present(struct loader *loader, const char *name, size_t values,
                                       struct device_ptr *out) {
    if (gguf_find_tensor(loader->file, name) == NULL) {
        *out = device_ptr_at(NULL, 0);
        return ERR_OK;
    }
    return load_vector(loader, name, values, out);
}

static enum err find_matrix(const struct loader *loader, const char *name, int rows, int columns,
                            const struct gguf_tensor **out) {
    TRY(find(loader, name, out));
    if ((*out)->dims[0] != (uint64_t)columns || (*out)->dims[1] != (uint64_t)rows ||
        (*out)->values != (uint64_t)rows * (uint64_t)columns) {
        return err_fail(ERR_FORMAT, "tensor '%s' is [%llu, %llu], expected [%d, %d]", name,
                        (unsigned long long)(*out)->dims[0], (unsigned long long)(*out)->dims[1],
                        columns, rows);
    }
    return ERR_OK;
}

static enum err load_weight(struct loader *loader, const char *name, int rows, int columns,
                            struct device_weight **out) {
    const struct gguf_tensor *tensor = NULL;
    TRY(find_matrix(loader, name, rows, columns, &tensor));
    enum err code = device_weight_create(
        loader->device,
        &(struct device_weight_params){
            .type = tensor->type, .rows = rows, .columns = columns, .data = tensor->data},
        out);
    if (code != ERR_OK) {
        return err_context(code, "tensor '%s'", name);
    }
    return ERR_OK;
}

/* blk.LAYER.STEM.weight and, if present, blk.LAYER.STEM.bias. */
static enum err load_matrix(struct loader *loader, int layer, const char *stem, int rows,
                            int columns, struct model_matrix *out) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, stem);
    TRY(load_weight(loader, name, rows, columns, &out->weight));
    snprintf(name, sizeof name, "blk.%d.%s.bias", layer, stem);
    return load_vector_if_present(loader, name, (size_t)rows, &out->bias);
}

/* --- rows in another order ------------------------------------------------------------ */

/* Where row ROW of a head of SIZE rows comes from: even dimensions first, then odd ones. */
static int deinterleaved_row(int row, int size) {
    int half = (size + 1) / 2;
    return row < half ? 2 * row : 2 * (row - half) + 1;
}

/* A copy of the tensor's rows with each head's rows deinterleaved; the caller frees it. */
static enum err deinterleave(const struct gguf_tensor *tensor, size_t row_bytes, int heads,
                             int size, uint8_t **out) {
    uint8_t *copy = malloc(tensor->bytes);
    if (copy == NULL) {
        return err_fail(ERR_NOMEM, "%zu bytes to reorder rows", tensor->bytes);
    }
    for (int head = 0; head < heads; head++) {
        for (int row = 0; row < size; row++) {
            size_t to = (size_t)head * (size_t)size + (size_t)row;
            size_t from = (size_t)head * (size_t)size + (size_t)deinterleaved_row(row, size);
            memcpy(copy + to * row_bytes, (const uint8_t *)tensor->data + from * row_bytes,
                   row_bytes);
        }
    }
    *out = copy;
    return ERR_OK;
}

static enum err load_deinterleaved_bias(struct loader *loader, const char *name, int heads,
                                        int size, struct device_ptr *out) {
    if (gguf_find_tensor(loader->file, name) == NULL) {
        *out = device_ptr_at(NULL, 0);
        return ERR_OK;
    }
    const struct gguf_tensor *tensor = NULL;
    CLEANUP(object_free) uint8_t *rows = NULL;
    TRY(find_vector(loader, name, (size_t)heads * (size_t)size, &tensor));
    TRY(deinterleave(tensor, sizeof(float), heads, size, &rows));
    return vector_arena_add(&loader->vectors, rows, tensor->bytes, out, NULL);
}

static enum err load_deinterleaved(struct loader *loader, int layer, const char *stem, int heads,
                                   int size, int columns, struct model_matrix *out) {
    char name[NAME_BYTES];
    const struct gguf_tensor *tensor = NULL;
    CLEANUP(object_free) uint8_t *rows = NULL;
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, stem);
    TRY(find_matrix(loader, name, heads * size, columns, &tensor));
    TRY(deinterleave(tensor, dtype_bytes(tensor->type, (size_t)columns), heads, size, &rows));
    enum err code = device_weight_create(
        loader->device,
        &(struct device_weight_params){
            .type = tensor->type, .rows = heads * size, .columns = columns, .data = rows},
        &out->weight);
    if (code != ERR_OK) {
        return err_context(code, "tensor '%s'", name);
    }
    snprintf(name, sizeof name, "blk.%d.%s.bias", layer, stem);
    return load_deinterleaved_bias(loader, name, heads, size, &out->bias);
}

/* --- layers --------------------------------------------------------------------------- */

static enum err load_attention(struct loader *loader, const struct model_shape *shape, int layer,
                               struct model_attention_weights *out) {
    const struct model_attention *attention = &shape->layers[layer].attention;
    int hidden = shape->hidden;
    if (shape->rope.undo_interleaving) {
        TRY(load_deinterleaved(loader, layer, "attn_q", attention->heads, attention->key_size,
                               hidden, &out->query));
        TRY(load_deinterleaved(loader, layer, "attn_k", attention->kv_heads, attention->key_size,
                               hidden, &out->key));
    } else {
        TRY(load_matrix(loader, layer, "attn_q", attention->heads * attention->key_size, hidden,
                        &out->query));
        TRY(load_matrix(loader, layer, "attn_k", attention->kv_heads * attention->key_size, hidden,
                        &out->key));
    }
    TRY(load_matrix(loader, layer, "attn_v", attention->kv_heads * attention->value_size, hidden,
                    &out->value));
    return load_matrix(loader, layer, "attn_output", hidden,
                       attention->heads * attention->value_size, &out->output);
}

static enum err load_mamba2(struct loader *loader, const struct model_shape *shape, int layer,
                            struct model_mamba2_weights *out) {
    const struct model_mamba2 *mamba2 = &shape->layers[layer].mamba2;
    int inner = model_mamba2_inner(mamba2);
    size_t channels = (size_t)model_mamba2_channels(mamba2);
    size_t heads = (size_t)mamba2->heads;
    char name[NAME_BYTES];
    TRY(load_matrix(loader, layer, "ssm_in", inner + (int)channels + mamba2->heads, shape->hidden,
                    &out->in));
    TRY(load_matrix(loader, layer, "ssm_out", shape->hidden, inner, &out->out));
    snprintf(name, sizeof name, "blk.%d.ssm_conv1d.weight", layer);
    TRY(load_vector(loader, name, channels * (size_t)mamba2->taps, &out->conv_weight));
    snprintf(name, sizeof name, "blk.%d.ssm_conv1d.bias", layer);
    TRY(load_vector_if_present(loader, name, channels, &out->conv_bias));
    snprintf(name, sizeof name, "blk.%d.ssm_dt.bias", layer);
    TRY(load_vector(loader, name, heads, &out->dt_bias));
    snprintf(name, sizeof name, "blk.%d.ssm_a", layer);
    TRY(load_vector(loader, name, heads, &out->a));
    snprintf(name, sizeof name, "blk.%d.ssm_d", layer);
    TRY(load_vector(loader, name, heads, &out->d));
    snprintf(name, sizeof name, "blk.%d.ssm_norm.weight", layer);
    return load_vector(loader, name, (size_t)inner, &out->norm);
}

static enum err load_layer(struct loader *loader, const struct model_shape *shape, int layer,
                           struct model_layer *out) {
    const struct model_layer_shape *parts = &shape->layers[layer];
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    TRY(load_vector(loader, name, (size_t)shape->hidden, &out->mixer_norm));
    if (parts->attention.heads > 0) {
        TRY(load_attention(loader, shape, layer, &out->attention));
    }
    if (parts->mamba2.heads > 0) {
        TRY(load_mamba2(loader, shape, layer, &out->mamba2));
    }
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    TRY(load_vector(loader, name, (size_t)shape->hidden, &out->feed_forward_norm));
    TRY(load_matrix(loader, layer, "ffn_gate", parts->feed_forward, shape->hidden,
                    &out->feed_forward.gate));
    TRY(load_matrix(loader, layer, "ffn_up", parts->feed_forward, shape->hidden,
                    &out->feed_forward.up));
    return load_matrix(loader, layer, "ffn_down", shape->hidden, parts->feed_forward,
                       &out->feed_forward.down);
}

/* frequencies[i] = base^(-i / pairs), divided by rope_freqs[i] where the file has them. */
static enum err load_rope(struct loader *loader, const struct model_shape *shape,
                          struct device_ptr *out) {
    int pairs = shape->rope.pairs;
    if (pairs == 0) {
        return ERR_OK;
    }
    const struct gguf_tensor *divisors = NULL;
    if (gguf_find_tensor(loader->file, "rope_freqs.weight") != NULL) {
        TRY(find_vector(loader, "rope_freqs.weight", (size_t)pairs, &divisors));
    }
    void *place = NULL;
    TRY(vector_arena_add(&loader->vectors, NULL, (size_t)pairs * sizeof(double), out, &place));
    double *frequencies = place;
    for (int i = 0; i < pairs; i++) {
        frequencies[i] = elementary_pow(shape->rope.base, -(double)i / (double)pairs);
        if (divisors != NULL) {
            float divisor;
            memcpy(&divisor, (const uint8_t *)divisors->data + (size_t)i * sizeof divisor,
                   sizeof divisor);
            if (!(divisor > 0.0f && divisor < HUGE_VALF)) {
                return err_fail(ERR_FORMAT, "tensor 'rope_freqs.weight': value %d is %g", i,
                                (double)divisor);
            }
            frequencies[i] /= (double)divisor;
        }
    }
    return ERR_OK;
}

static enum err load_all(struct loader *loader, struct model *model) {
    const struct model_shape *shape = &model->shape;
    TRY(load_weight(loader, "token_embd.weight", shape->vocabulary, shape->hidden,
                    &model->embedding));
    if (shape->has_output_weight) {
        TRY(load_weight(loader, "output.weight", shape->vocabulary, shape->hidden, &model->output));
    } else {
        model->output = model->embedding;
    }
    TRY(load_vector(loader, "output_norm.weight", (size_t)shape->hidden, &model->output_norm));
    for (int i = 0; i < shape->layer_count; i++) {
        TRY(load_layer(loader, shape, i, &model->layers[i]));
    }
    /* Behind the layers: their tensors have shown that a head is as large as the keys say. */
    TRY(load_rope(loader, shape, &model->rope_frequencies));
    return vector_arena_upload(&loader->vectors, loader->device, &model->vectors);
}

static enum err prepare(const struct gguf *file, const struct model_config *config,
                        struct model *model) {
    model->device = config->device;
    TRY(model_shape_read(file, &model->shape));
    TRY(model_shape_layout(&model->shape, config->block_size, config->kv_type, &model->layout));
    model->layers = calloc((size_t)model->shape.layer_count, sizeof *model->layers);
    if (model->layers == NULL) {
        return err_fail(ERR_NOMEM, "model of %d layers", model->shape.layer_count);
    }
    return ERR_OK;
}

enum err model_load(const struct gguf *file, const struct model_config *config,
                    struct model **out) {
    struct loader loader = {.file = file, .device = config->device};
    size_t file_bytes = 0;
    gguf_data(file, &file_bytes);
    struct model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return err_fail(ERR_NOMEM, "model");
    }
    /* Vectors and frequencies are less than what the file's data and records take. */
    vector_arena_init(&loader.vectors, 4 * file_bytes);
    enum err code = prepare(file, config, model);
    if (code == ERR_OK) {
        code = load_all(&loader, model);
    }
    vector_arena_done(&loader.vectors);
    if (code != ERR_OK) {
        model_destroy(model);
        return code;
    }
    *out = model;
    return ERR_OK;
}

static void destroy_layer(struct model_layer *layer) {
    struct device_weight *weights[] = {
        layer->attention.query.weight,   layer->attention.key.weight,
        layer->attention.value.weight,   layer->attention.output.weight,
        layer->mamba2.in.weight,         layer->mamba2.out.weight,
        layer->feed_forward.gate.weight, layer->feed_forward.up.weight,
        layer->feed_forward.down.weight,
    };
    for (size_t i = 0; i < ARRAY_LEN(weights); i++) {
        device_weight_destroy(weights[i]);
    }
}

void model_destroy(struct model *model) {
    if (model == NULL) {
        return;
    }
    for (int i = 0; model->layers != NULL && i < model->shape.layer_count; i++) {
        destroy_layer(&model->layers[i]);
    }
    if (model->output != model->embedding) {
        device_weight_destroy(model->output);
    }
    device_weight_destroy(model->embedding);
    device_buffer_destroy(model->vectors);
    free(model->layers);
    layout_done(&model->layout);
    model_shape_done(&model->shape);
    free(model);
}
