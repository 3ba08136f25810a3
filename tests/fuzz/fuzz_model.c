/* A model's shape and the layout of its state, read from any bytes that are a GGUF. */
#include "engine/model_shape.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check(int is_true) {
    if (!is_true) {
        abort();
    }
}

/* What the rest of the engine counts on without asking again. */
static void check_layer(const struct model_shape *shape, const struct model_layer_shape *layer) {
    const struct model_attention *attention = &layer->attention;
    const struct model_mamba2 *mamba2 = &layer->mamba2;
    check(layer->feed_forward >= 1 && layer->feed_forward <= MODEL_SIZE_MAX);
    check((attention->heads > 0) != (mamba2->heads > 0));
    if (attention->heads > 0) {
        check(attention->kv_heads >= 1 && attention->heads % attention->kv_heads == 0);
        check((int64_t)attention->heads * attention->key_size <= MODEL_SIZE_MAX);
        check((int64_t)attention->heads * attention->value_size <= MODEL_SIZE_MAX);
        check(attention->key_size >= 1 && attention->value_size >= 1);
        check(2 * shape->rope.pairs <= attention->key_size);
    } else {
        check(mamba2->groups >= 1 && mamba2->heads % mamba2->groups == 0);
        check(mamba2->taps >= 2 && mamba2->head_size >= 1 && mamba2->state_size >= 1);
        check(model_mamba2_inner(mamba2) <= MODEL_SIZE_MAX);
        check((int64_t)mamba2->groups * mamba2->state_size <= MODEL_SIZE_MAX);
        check(model_mamba2_channels(mamba2) > model_mamba2_inner(mamba2));
    }
}

static void check_layout(struct model_shape *shape, int block_size, enum dtype kv_type) {
    struct layout layout;
    err_clear();
    if (model_shape_layout(shape, block_size, kv_type, &layout) != ERR_OK) {
        check(err_message()[0] != '\0');
        return;
    }
    int segments = layout.kv_count * 2;
    for (int i = 0; i < segments; i++) {
        check(layout.segments[i].offset_bytes % LAYOUT_ALIGN_BYTES == 0);
        check(layout.segments[i].offset_bytes < layout.block_bytes);
    }
    for (int i = 0; i < layout.state_count; i++) {
        check(layout.states[i].offset_bytes % LAYOUT_ALIGN_BYTES == 0);
        check(layout.states[i].bytes <= layout.slot_bytes - layout.states[i].offset_bytes);
    }
    check(layout.kv_count + layout.state_count / 2 == shape->layer_count);
    layout_done(&layout);
}

static void check_model(const struct gguf *file) {
    struct model_shape shape;
    err_clear();
    if (model_shape_read(file, &shape) != ERR_OK) {
        check(err_message()[0] != '\0');
        return;
    }
    check(shape.layer_count >= 1 && (size_t)shape.layer_count <= gguf_tensor_count(file));
    check(shape.hidden >= 1 && shape.hidden <= MODEL_SIZE_MAX);
    check(shape.vocabulary >= 1 && shape.vocabulary <= MODEL_SIZE_MAX);
    check(strlen(shape.name) < sizeof shape.name);
    for (int i = 0; i < shape.layer_count; i++) {
        check_layer(&shape, &shape.layers[i]);
    }
    check_layout(&shape, 32, DTYPE_F16);
    check_layout(&shape, 256, DTYPE_F32);
    model_shape_done(&shape);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    /* A block of its own: gguf_parse wants it aligned, and a sanitizer sees a read behind it. */
    uint8_t *copy = malloc(bytes > 0 ? bytes : 1);
    struct gguf *file = NULL;
    check(copy != NULL);
    memcpy(copy, data, bytes);
    if (gguf_parse(copy, bytes, &file) == ERR_OK) {
        check_model(file);
        gguf_close(file);
    }
    free(copy);
    return 0;
}
