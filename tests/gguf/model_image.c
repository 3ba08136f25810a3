#include "tests/gguf/model_image.h"

#include "base/half.h"
#include "tests/gguf/vocabulary_image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 96, Q8_VALUES = 32 };

/* A file that is being written. */
struct writer {
    const struct model_image *image;
    struct gguf_builder builder;
    uint32_t random;
};

struct model_image model_image_default(void) {
    return (struct model_image){
        .layers = "MAM",
        .hidden = 32,
        .heads = 4,
        .kv_heads = 2,
        .ssm_heads = 4,
        .ssm_head_size = 8,
        .ssm_groups = 2,
        .ssm_state = 16,
        .taps = 4,
        .feed_forward = 64,
        .type = DTYPE_F32,
    };
}

/* Within [-0.25, 0.25). */
static float draw(struct writer *writer) {
    writer->random = writer->random * 1664525u + 1013904223u;
    return (float)(writer->random >> 8) / (float)(1 << 25) - 0.25f;
}

static int is_left_out(const struct writer *writer, const char *name) {
    return writer->image->without != NULL && strcmp(writer->image->without, name) == 0;
}

/* --- keys ----------------------------------------------------------------------------- */

static void key_u32(struct writer *writer, const char *suffix, int value) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "granitehybrid.%s", suffix);
    if (!is_left_out(writer, name)) {
        gguf_builder_u32(&writer->builder, name, (uint32_t)value);
    }
}

static void key_f32(struct writer *writer, const char *suffix, float value) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "granitehybrid.%s", suffix);
    if (!is_left_out(writer, name)) {
        gguf_builder_f32(&writer->builder, name, value);
    }
}

static void write_kv_heads(struct writer *writer) {
    const struct model_image *image = writer->image;
    static const char name[] = "granitehybrid.attention.head_count_kv";
    int32_t kv_heads[64] = {0};
    size_t count = strlen(image->layers);
    if (count > ARRAY_LEN(kv_heads)) {
        abort();
    }
    for (size_t i = 0; i < count; i++) {
        kv_heads[i] = image->layers[i] == 'A' ? image->kv_heads : 0;
    }
    if (!is_left_out(writer, name)) {
        gguf_builder_array(&writer->builder, name, GGUF_TYPE_I32, count, kv_heads,
                           count * sizeof kv_heads[0]);
    }
}

static void write_keys(struct writer *writer) {
    const struct model_image *image = writer->image;
    if (!is_left_out(writer, "general.architecture")) {
        gguf_builder_string(&writer->builder, "general.architecture", "granitehybrid");
    }
    if (!is_left_out(writer, "general.name")) {
        gguf_builder_string(&writer->builder, "general.name", "made for tests");
    }
    key_u32(writer, "block_count", (int)strlen(image->layers));
    key_u32(writer, "embedding_length", image->hidden);
    key_u32(writer, "context_length", 4096);
    key_u32(writer, "feed_forward_length", image->feed_forward);
    key_u32(writer, "attention.head_count", image->heads);
    write_kv_heads(writer);
    if (image->head_size > 0) {
        key_u32(writer, "attention.key_length", image->head_size);
        key_u32(writer, "attention.value_length", image->head_size);
    }
    key_f32(writer, "attention.layer_norm_rms_epsilon", 1e-5f);
    key_f32(writer, "attention.scale", 0.3f);
    key_f32(writer, "embedding_scale", 3.0f);
    key_f32(writer, "residual_scale", 0.5f);
    key_f32(writer, "logit_scale", 0.25f);
    key_u32(writer, "ssm.conv_kernel", image->taps);
    key_u32(writer, "ssm.state_size", image->ssm_state);
    key_u32(writer, "ssm.group_count", image->ssm_groups);
    key_u32(writer, "ssm.inner_size", image->ssm_heads * image->ssm_head_size);
    key_u32(writer, "ssm.time_step_rank", image->ssm_heads);
    if (!is_left_out(writer, "granitehybrid.rope.scaling.finetuned")) {
        gguf_builder_bool(&writer->builder, "granitehybrid.rope.scaling.finetuned",
                          image->rope_dimensions > 0);
    }
    if (image->rope_dimensions > 0) {
        key_u32(writer, "rope.dimension_count", image->rope_dimensions);
        key_f32(writer, "rope.freq_base", 10000.0f);
    }
    if (!image->has_no_tokenizer) {
        vocabulary_image_write(
            &(struct vocabulary_image){.model = "gpt2", .pre = "gpt-2", .leaves_out_byte = -1},
            &writer->builder);
    }
}

/* --- tensors -------------------------------------------------------------------------- */

static void put(uint8_t *to, enum dtype type, size_t index, float value) {
    if (type == DTYPE_F32) {
        memcpy(to + index * sizeof value, &value, sizeof value);
    } else if (type == DTYPE_Q8_0) {
        size_t block = index / Q8_VALUES * 34;
        const uint16_t scale = half_f32_to_f16(1.0f / 256);
        memcpy(to + block, &scale, sizeof scale);
        to[block + 2 + index % Q8_VALUES] = (uint8_t)(int8_t)(value * 256);
    } else {
        uint16_t bits = type == DTYPE_F16 ? half_f32_to_f16(value) : half_f32_to_bf16(value);
        memcpy(to + index * sizeof bits, &bits, sizeof bits);
    }
}

/* Values around CENTRE; rows == 0: a vector. */
static void tensor(struct writer *writer, const char *name, enum dtype type, int columns, int rows,
                   float centre) {
    static const uint32_t numbers[] = {
        [DTYPE_F32] = 0, [DTYPE_F16] = 1, [DTYPE_BF16] = 30, [DTYPE_Q8_0] = 8};
    if (is_left_out(writer, name)) {
        return;
    }
    size_t values = (size_t)columns * (size_t)(rows == 0 ? 1 : rows);
    size_t at = writer->builder.data.len;
    gguf_builder_tensor(&writer->builder, &(struct gguf_builder_tensor){
                                              .name = name,
                                              .type_number = numbers[type],
                                              .dim_count = rows == 0 ? 1 : 2,
                                              .dims = {(uint64_t)columns, (uint64_t)rows},
                                              .bytes = dtype_bytes(type, values),
                                          });
    for (size_t i = 0; i < values; i++) {
        put(writer->builder.data.data + at, type, i, centre + draw(writer));
    }
}

static void matrix(struct writer *writer, int layer, const char *stem, int columns, int rows) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%d.%s.weight", layer, stem);
    tensor(writer, name, writer->image->type, columns, rows, 0.0f);
    if (writer->image->has_biases) {
        snprintf(name, sizeof name, "blk.%d.%s.bias", layer, stem);
        tensor(writer, name, DTYPE_F32, rows, 0, 0.0f);
    }
}

static void vector(struct writer *writer, int layer, const char *suffix, int columns, int rows,
                   float centre) {
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "blk.%d.%s", layer, suffix);
    tensor(writer, name, DTYPE_F32, columns, rows, centre);
}

static void write_attention(struct writer *writer, int layer) {
    const struct model_image *image = writer->image;
    int size = image->head_size > 0 ? image->head_size : image->hidden / image->heads;
    matrix(writer, layer, "attn_q", image->hidden, image->heads * size);
    matrix(writer, layer, "attn_k", image->hidden, image->kv_heads * size);
    matrix(writer, layer, "attn_v", image->hidden, image->kv_heads * size);
    matrix(writer, layer, "attn_output", image->heads * size, image->hidden);
}

static void write_mamba2(struct writer *writer, int layer) {
    const struct model_image *image = writer->image;
    int inner = image->ssm_heads * image->ssm_head_size;
    int channels = inner + 2 * image->ssm_groups * image->ssm_state;
    matrix(writer, layer, "ssm_in", image->hidden, inner + channels + image->ssm_heads);
    matrix(writer, layer, "ssm_out", inner, image->hidden);
    vector(writer, layer, "ssm_conv1d.weight", image->taps, channels, 0.25f);
    vector(writer, layer, "ssm_conv1d.bias", channels, 0, 0.0f);
    vector(writer, layer, "ssm_dt.bias", image->ssm_heads, 0, -2.0f);
    vector(writer, layer, "ssm_a", 1, image->ssm_heads, -1.0f);
    vector(writer, layer, "ssm_d", 1, image->ssm_heads, 1.0f);
    vector(writer, layer, "ssm_norm.weight", inner / image->ssm_groups, image->ssm_groups, 1.0f);
}

static void write_tensors(struct writer *writer) {
    const struct model_image *image = writer->image;
    tensor(writer, "token_embd.weight", image->type, image->hidden, VOCABULARY_IMAGE_BYTES, 0.0f);
    tensor(writer, "output_norm.weight", DTYPE_F32, image->hidden, 0, 1.0f);
    if (image->has_output) {
        tensor(writer, "output.weight", image->type, image->hidden, VOCABULARY_IMAGE_BYTES, 0.0f);
    }
    for (int i = 0; image->layers[i] != '\0'; i++) {
        vector(writer, i, "attn_norm.weight", image->hidden, 0, 1.0f);
        if (image->layers[i] == 'A') {
            write_attention(writer, i);
        } else {
            write_mamba2(writer, i);
        }
        vector(writer, i, "ffn_norm.weight", image->hidden, 0, 1.0f);
        matrix(writer, i, "ffn_gate", image->hidden, image->feed_forward);
        matrix(writer, i, "ffn_up", image->hidden, image->feed_forward);
        matrix(writer, i, "ffn_down", image->feed_forward, image->hidden);
    }
}

uint8_t *model_image_file(const struct model_image *image, size_t *bytes) {
    struct writer writer = {.image = image, .random = 1};
    gguf_builder_init(&writer.builder);
    write_keys(&writer);
    write_tensors(&writer);
    if (image->add != NULL) {
        image->add(&writer.builder);
    }
    uint8_t *file = gguf_builder_file(&writer.builder, bytes);
    gguf_builder_done(&writer.builder);
    return file;
}
