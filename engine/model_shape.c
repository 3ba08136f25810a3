#include "engine/model_shape.h"

#include "engine/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_BYTES = 128 };

struct reader {
    const char *architecture;
    enum err (*read)(const struct gguf *file, struct model_shape *shape);
};

static const struct reader readers[] = {
    {"granitehybrid", model_shape_read_granitehybrid},
};

static void full_key(char out[KEY_BYTES], const char *architecture, const char *key) {
    snprintf(out, KEY_BYTES, "%s.%s", architecture, key);
}

static enum err check_range(const char *key, int64_t value, int min, int max, int *out) {
    if (value < min || value > max) {
        return err_fail(ERR_FORMAT, "key '%s' is %lld, expected %d to %d", key, (long long)value,
                        min, max);
    }
    *out = (int)value;
    return ERR_OK;
}

enum err model_shape_get_size(const struct gguf *file, const char *architecture, const char *key,
                              int min, int max, int *out) {
    char name[KEY_BYTES];
    full_key(name, architecture, key);
    uint32_t value = 0;
    enum err code = gguf_get_u32(file, name, &value);
    if (code == ERR_NOT_FOUND) {
        return err_fail(ERR_FORMAT, "key '%s' is missing", name);
    }
    TRY(code);
    return check_range(name, value, min, max, out);
}

enum err model_shape_get_size_or(const struct gguf *file, const char *architecture, const char *key,
                                 int min, int max, int fallback, int *out) {
    char name[KEY_BYTES];
    full_key(name, architecture, key);
    if (!gguf_has(file, name)) {
        *out = fallback;
        return ERR_OK;
    }
    return model_shape_get_size(file, architecture, key, min, max, out);
}

enum err model_shape_get_layer_size(const struct gguf *file, const char *architecture,
                                    const char *key, int layer, int max, int *out) {
    char name[KEY_BYTES];
    full_key(name, architecture, key);
    struct gguf_array array;
    enum err code = gguf_get_array(file, name, &array);
    if (code == ERR_NOT_FOUND || code == ERR_FORMAT) {
        return model_shape_get_size(file, architecture, key, 0, max, out);
    }
    TRY(code);
    if ((uint64_t)layer >= array.count) {
        return err_fail(ERR_FORMAT, "key '%s' has %llu values, expected one for block %d", name,
                        (unsigned long long)array.count, layer);
    }
    int64_t value = 0;
    code = gguf_array_i64(&array, (uint64_t)layer, &value);
    if (code != ERR_OK) {
        return err_context(code, "key '%s'", name);
    }
    return check_range(name, value, 0, max, out);
}

enum err model_shape_get_factor(const struct gguf *file, const char *architecture, const char *key,
                                float fallback, float *out) {
    char name[KEY_BYTES];
    full_key(name, architecture, key);
    float value = 0.0f;
    enum err code = gguf_get_f32(file, name, &value);
    if (code != ERR_NOT_FOUND) {
        TRY(code);
    }
    if (!isfinite(value)) {
        return err_fail(ERR_FORMAT, "key '%s' is not a finite number", name);
    }
    *out = value == 0.0f ? fallback : value;
    return ERR_OK;
}

const struct gguf_tensor *model_shape_find_tensor(const struct gguf *file, int layer,
                                                  const char *suffix) {
    char name[KEY_BYTES];
    snprintf(name, sizeof name, "blk.%d.%s", layer, suffix);
    return gguf_find_tensor(file, name);
}

/* Copies at most BYTES - 1 bytes of printable UTF-8; what is neither becomes '?'. */
static void copy_text(char *to, size_t bytes, struct gguf_string from) {
    size_t len = from.len < bytes - 1 ? from.len : bytes - 1;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)from.text[i];
        to[i] = c >= 0x20 && c != 0x7f ? (char)c : '?';
    }
    for (size_t valid = utf8_valid_prefix(to, len); valid < len;
         valid += utf8_valid_prefix(to + valid, len - valid)) {
        to[valid] = '?';
    }
    to[len] = '\0';
}

static enum err read_vocabulary(const struct gguf *file, struct model_shape *shape) {
    const struct gguf_tensor *embedding = gguf_find_tensor(file, "token_embd.weight");
    if (embedding == NULL) {
        return err_fail(ERR_FORMAT, "tensor 'token_embd.weight' is missing");
    }
    TRY(check_range("token_embd.weight rows", (int64_t)embedding->dims[1], 1, MODEL_SIZE_MAX,
                    &shape->vocabulary));
    struct gguf_array tokens;
    enum err code = gguf_get_array(file, "tokenizer.ggml.tokens", &tokens);
    if (code == ERR_NOT_FOUND) {
        return ERR_OK;
    }
    TRY(code);
    if (tokens.count != (uint64_t)shape->vocabulary) {
        return err_fail(ERR_FORMAT,
                        "tensor 'token_embd.weight' has %d rows, expected %llu as in key "
                        "'tokenizer.ggml.tokens'",
                        shape->vocabulary, (unsigned long long)tokens.count);
    }
    return ERR_OK;
}

static enum err read_with(const struct reader *reader, const struct gguf *file,
                          struct model_shape *shape) {
    struct gguf_string name;
    if (gguf_get_string(file, "general.name", &name) == ERR_OK) {
        copy_text(shape->name, sizeof shape->name, name);
    }
    shape->has_output_weight = gguf_find_tensor(file, "output.weight") != NULL;
    TRY(reader->read(file, shape));
    return read_vocabulary(file, shape);
}

enum err model_shape_read(const struct gguf *file, struct model_shape *out) {
    struct gguf_string architecture;
    enum err code = gguf_get_string(file, "general.architecture", &architecture);
    if (code == ERR_NOT_FOUND) {
        return err_fail(ERR_FORMAT, "key 'general.architecture' is missing");
    }
    TRY(code);
    struct model_shape shape = {0};
    copy_text(shape.architecture, sizeof shape.architecture, architecture);
    for (size_t i = 0; i < ARRAY_LEN(readers); i++) {
        if (strlen(readers[i].architecture) != architecture.len ||
            memcmp(readers[i].architecture, architecture.text, architecture.len) != 0) {
            continue;
        }
        code = read_with(&readers[i], file, &shape);
        if (code != ERR_OK) {
            model_shape_done(&shape);
            return code;
        }
        *out = shape;
        return ERR_OK;
    }
    return err_fail(ERR_UNSUPPORTED, "architecture '%s' is not supported; this build runs: %s",
                    shape.architecture, readers[0].architecture);
}

void model_shape_done(struct model_shape *shape) {
    free(shape->layers);
    *shape = (struct model_shape){0};
}

static enum err add_layer(struct model_shape *shape, int index, struct layout *layout) {
    struct model_attention *attention = &shape->layers[index].attention;
    if (attention->heads > 0) {
        TRY(layout_add_kv(layout, index, attention->kv_heads, attention->key_size,
                          attention->value_size, &attention->kv_index));
    }
    struct model_mamba2 *mamba2 = &shape->layers[index].mamba2;
    if (mamba2->heads > 0) {
        TRY(layout_add_state(layout, index, "conv",
                             (int[]){1, mamba2->taps - 1, model_mamba2_channels(mamba2)},
                             &mamba2->conv_index));
        TRY(layout_add_state(layout, index, "ssm",
                             (int[]){mamba2->heads, mamba2->state_size, mamba2->head_size},
                             &mamba2->ssm_index));
    }
    return ERR_OK;
}

enum err model_shape_layout(struct model_shape *shape, int block_size, enum dtype kv_type,
                            struct layout *layout) {
    struct layout filled;
    TRY(layout_init(&filled, block_size, kv_type));
    for (int i = 0; i < shape->layer_count; i++) {
        enum err code = add_layer(shape, i, &filled);
        if (code != ERR_OK) {
            layout_done(&filled);
            return code;
        }
    }
    *layout = filled;
    return ERR_OK;
}
