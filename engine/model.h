/*
 * A model's weights on a device, checked against its shape when loaded. Matrices
 * are packed by the device; vectors (norms, biases, convolutions, decays) lie in
 * one buffer. The file is not needed afterwards. Immutable: shared by all
 * requests.
 */
#ifndef TERN_ENGINE_MODEL_H
#define TERN_ENGINE_MODEL_H

#include "engine/model_shape.h"
#include "gpu/device.h"

/*
 * Loading takes at most this times the file's size of device memory, and the second times it plus
 * 64 KiB of other memory (while it lasts; gguf_parse's share comes to it). Files of tiny matrices
 * come near, since a matrix is padded to 16 rows and whole pages; real ones take 1.1 times.
 */
enum { MODEL_DEVICE_FACTOR = 64, MODEL_ALLOCATION_FACTOR = 12 };

struct model_matrix {
    struct device_weight *weight;
    struct device_ptr bias; /* or none */
};

struct model_attention_weights {
    struct model_matrix query;
    struct model_matrix key;
    struct model_matrix value;
    struct model_matrix output;
};

struct model_mamba2_weights {
    struct model_matrix in; /* rows z, x, B, C, dt */
    struct model_matrix out;
    struct device_ptr conv_weight; /* [channels][taps] */
    struct device_ptr conv_bias;   /* [channels], or none */
    struct device_ptr dt_bias;     /* [heads] */
    struct device_ptr a;           /* [heads], negative */
    struct device_ptr d;           /* [heads] */
    struct device_ptr norm;        /* [inner], or none */
};

struct model_feed_forward_weights {
    struct model_matrix gate;
    struct model_matrix up;
    struct model_matrix down;
};

struct model_layer {
    struct device_ptr mixer_norm;        /* [hidden] */
    struct device_ptr feed_forward_norm; /* [hidden] */
    struct model_attention_weights attention;
    struct model_mamba2_weights mamba2;
    struct model_feed_forward_weights feed_forward;
};

struct model {
    struct device *device;
    struct model_shape shape;
    struct layout layout; /* of the KV blocks and state slots */
    struct device_weight *embedding;
    struct device_weight *output; /* the embedding again where the file has no output matrix */
    struct device_ptr output_norm;
    struct device_ptr rope_frequencies; /* F64 [pairs]; none without rotary positions */
    struct model_layer *layers;
    struct device_buffer *vectors;
};

struct model_config {
    struct device *device;
    int block_size;     /* tokens in a KV block */
    enum dtype kv_type; /* F16, BF16 or F32 */
};

/*
 * Loads every weight of FILE. ERR_FORMAT names the tensor that is missing or has another shape,
 * ERR_UNSUPPORTED one of a type that this build does not run.
 */
MUST_USE enum err model_load(const struct gguf *file, const struct model_config *config,
                             struct model **out);
void model_destroy(struct model *model);

#endif
