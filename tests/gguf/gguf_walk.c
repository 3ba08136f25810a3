#include "tests/gguf/gguf_walk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Not assert: a mutation or fuzz run says what it met. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #condition);             \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

struct walk {
    const struct gguf *file;
    uint64_t sum;
};

static void touch(struct walk *walk, const void *bytes, size_t len) {
    size_t file_bytes;
    const uint8_t *begin = gguf_data(walk->file, &file_bytes);
    const uint8_t *at = bytes;
    MUST(at >= begin && len <= file_bytes && (size_t)(at - begin) <= file_bytes - len);
    if (len > 0) {
        walk->sum += at[0];
        walk->sum += at[len - 1];
    }
}

/* Either an answer or a refusal with a message. */
static int is_answer(enum err err) {
    MUST(err == ERR_OK || err == ERR_FORMAT);
    MUST(err == ERR_OK || err_message()[0] != '\0');
    return err == ERR_OK;
}

static void walk_array(struct walk *walk, const struct gguf_array *array) {
    struct gguf_string text;
    int64_t integer = 0;
    float number = 0;
    for (uint64_t i = 0; i < array->count; i++) {
        if (array->type == GGUF_TYPE_STRING) {
            MUST(is_answer(gguf_array_string(array, i, &text)));
            touch(walk, text.text, text.len);
        } else if (array->type == GGUF_TYPE_F32 || array->type == GGUF_TYPE_F64) {
            walk->sum += (uint64_t)is_answer(gguf_array_f32(array, i, &number));
        } else if (is_answer(gguf_array_i64(array, i, &integer))) {
            walk->sum += (uint64_t)integer;
        }
    }
    if (array->count > 0) {
        int answers = is_answer(gguf_array_string(array, 0, &text)) +
                      is_answer(gguf_array_f32(array, 0, &number)) +
                      is_answer(gguf_array_i64(array, 0, &integer));
        MUST(answers <= 1);
    }
    MUST(gguf_array_i64(array, array->count, &integer) == ERR_INVALID);
}

static void walk_key(struct walk *walk, struct gguf_key key) {
    touch(walk, key.name.text, key.name.len);
    char *name = malloc(key.name.len + 1);
    MUST(name != NULL);
    memcpy(name, key.name.text, key.name.len);
    name[key.name.len] = '\0';

    uint32_t integer = 0;
    float number = 0;
    int is_true = 0;
    struct gguf_string text = {0};
    struct gguf_array array = {0};
    MUST(gguf_has(walk->file, name));
    int answers = 0;
    if (is_answer(gguf_get_u32(walk->file, name, &integer))) {
        answers++;
        walk->sum += integer;
    }
    answers += is_answer(gguf_get_f32(walk->file, name, &number));
    answers += is_answer(gguf_get_bool(walk->file, name, &is_true));
    if (is_answer(gguf_get_string(walk->file, name, &text))) {
        answers++;
        touch(walk, text.text, text.len);
    }
    if (is_answer(gguf_get_array(walk->file, name, &array))) {
        answers++;
        walk_array(walk, &array);
    }
    MUST(answers <= 1);
    free(name);
}

static void walk_tensor(struct walk *walk, const struct gguf_tensor *tensor) {
    char name[256];
    MUST(tensor->name.len < sizeof name);
    touch(walk, tensor->name.text, tensor->name.len);
    memcpy(name, tensor->name.text, tensor->name.len);
    name[tensor->name.len] = '\0';
    MUST(gguf_find_tensor(walk->file, name) == tensor);
    MUST(tensor->dim_count >= 1 && tensor->dim_count <= GGUF_DIMS_MAX);
    uint64_t values = 1;
    for (int i = 0; i < GGUF_DIMS_MAX; i++) {
        MUST(tensor->dims[i] >= 1);
        values *= tensor->dims[i];
    }
    MUST(values == tensor->values);
    MUST(gguf_tensor_type_name(tensor->type_number)[0] != '\0');
    MUST((tensor->data != NULL) == tensor->is_supported);
    if (tensor->is_supported) {
        MUST(tensor->bytes == dtype_bytes(tensor->type, tensor->values));
        MUST((uintptr_t)tensor->data % 8 == 0);
        touch(walk, tensor->data, tensor->bytes);
    }
}

uint64_t gguf_walk(const struct gguf *file) {
    struct walk walk = {.file = file};
    for (size_t i = 0; i < gguf_key_count(file); i++) {
        walk_key(&walk, gguf_key_at(file, i));
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        walk_tensor(&walk, gguf_tensor_at(file, i));
    }
    return walk.sum;
}
