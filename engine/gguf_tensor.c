/*
 * Tensor records and where their data lies (I1 to I4 of gguf.c).
 *
 * A record in the file: length (8), name, number of dimensions (4), dimensions (8 each), type (4),
 * offset of the data (8) from the begin of the data section.
 */
#include "engine/gguf_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tensor_type {
    const char *name;
    uint32_t block_values; /* 0: the size is not known */
    uint32_t block_bytes;
    int is_supported;
    enum dtype dtype;
};

/* Without a size: withdrawn types, and Q8_1, a form of activations that changed its size once. */
static const struct tensor_type tensor_types[] = {
    [0] = {"F32", 1, 4, 1, DTYPE_F32},
    [1] = {"F16", 1, 2, 1, DTYPE_F16},
    [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},
    [4] = {"Q4_2"},
    [5] = {"Q4_3"},
    [6] = {"Q5_0", 32, 22},
    [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34, 1, DTYPE_Q8_0},
    [9] = {"Q8_1"},
    [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},
    [12] = {"Q4_K", 256, 144},
    [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},
    [15] = {"Q8_K", 256, 292},
    [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},
    [18] = {"IQ3_XXS", 256, 98},
    [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},
    [21] = {"IQ3_S", 256, 110},
    [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136},
    [24] = {"I8", 1, 1},
    [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},
    [27] = {"I64", 1, 8},
    [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},
    [30] = {"BF16", 1, 2, 1, DTYPE_BF16},
    [31] = {"Q4_0_4_4"},
    [32] = {"Q4_0_4_8"},
    [33] = {"Q4_0_8_8"},
    [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},
    [36] = {"IQ4_NL_4_4"},
    [37] = {"IQ4_NL_4_8"},
    [38] = {"IQ4_NL_8_8"},
    [39] = {"MXFP4", 32, 17},
    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},
};

static const struct tensor_type *type_of(uint32_t number) {
    static const struct tensor_type unknown = {NULL};
    return number < ARRAY_LEN(tensor_types) ? &tensor_types[number] : &unknown;
}

const char *gguf_tensor_type_name(uint32_t type_number) {
    static _Thread_local char text[24];
    const char *name = type_of(type_number)->name;
    if (name != NULL) {
        return name;
    }
    snprintf(text, sizeof text, "type %" PRIu32, type_number);
    return text;
}

static enum err read_dims(struct gguf_cursor *cursor, struct gguf_tensor *tensor) {
    uint32_t dim_count = 0;
    TRY(gguf_cursor_u32(cursor, "the number of dimensions", &dim_count));
    if (dim_count < 1 || dim_count > GGUF_DIMS_MAX) {
        return err_fail(ERR_FORMAT, "%" PRIu32 " dimensions, expected 1 to %d", dim_count,
                        GGUF_DIMS_MAX);
    }
    tensor->dim_count = (int)dim_count;
    tensor->values = 1;
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
        tensor->dims[i] = 1;
        if (i < dim_count) {
            TRY(gguf_cursor_u64(cursor, "a dimension", &tensor->dims[i]));
        }
        if (tensor->dims[i] == 0) {
            return err_fail(ERR_FORMAT, "dimension %" PRIu32 " is 0, expected at least 1", i);
        }
        if (__builtin_mul_overflow(tensor->values, tensor->dims[i], &tensor->values) ||
            tensor->values > INT64_MAX) {
            return err_fail(ERR_FORMAT,
                            "dimension %" PRIu32 " of %" PRIu64
                            " makes more values than 64 bits count",
                            i, tensor->dims[i]);
        }
    }
    return ERR_OK;
}

static enum err read_type(struct gguf_cursor *cursor, struct gguf_tensor *tensor) {
    TRY(gguf_cursor_u32(cursor, "the type", &tensor->type_number));
    const struct tensor_type *type = type_of(tensor->type_number);
    tensor->is_supported = type->is_supported;
    tensor->type = type->dtype;
    if (type->block_values == 0) {
        return ERR_OK;
    }
    if (tensor->dims[0] % type->block_values != 0) {
        return err_fail(ERR_FORMAT,
                        "rows of %" PRIu64 " values of type %s, expected a multiple of %" PRIu32,
                        tensor->dims[0], type->name, type->block_values);
    }
    uint64_t blocks = tensor->values / type->block_values;
    if (__builtin_mul_overflow(blocks, type->block_bytes, &tensor->bytes)) {
        return err_fail(ERR_FORMAT,
                        "%" PRIu64 " values of type %s are more bytes than 64 bits count",
                        tensor->values, type->name);
    }
    return ERR_OK;
}

static enum err read_record(struct gguf_cursor *cursor, uint32_t number, uint32_t alignment,
                            struct gguf_tensor *tensor, uint64_t *offset) {
    struct gguf_string name;
    enum err err = gguf_cursor_string(cursor, "the name", &name);
    if (err == ERR_OK) {
        err = gguf_file_check_name(name, GGUF_FILE_TENSOR_NAME_LEN_MAX);
    }
    if (err != ERR_OK) {
        return err_context(err, "tensor %" PRIu32, number);
    }
    tensor->name = name;
    err = read_dims(cursor, tensor);
    if (err == ERR_OK) {
        err = read_type(cursor, tensor);
    }
    if (err == ERR_OK) {
        err = gguf_cursor_u64(cursor, "the offset", offset);
    }
    if (err == ERR_OK && *offset % alignment != 0) {
        err = err_fail(ERR_FORMAT, "data at offset %" PRIu64 ", expected a multiple of %" PRIu32,
                       *offset, alignment);
    }
    if (err != ERR_OK) {
        return err_context(err, "tensor %s", gguf_file_label(name).text);
    }
    return ERR_OK;
}

/* Points each tensor at its data. The section begins at the next multiple of ALIGNMENT. */
static enum err place(struct gguf *file, size_t records_end, uint32_t alignment,
                      const uint64_t *offsets) {
    size_t padding = (alignment - records_end % alignment) % alignment;
    size_t behind = file->bytes - records_end;
    size_t section_bytes = behind > padding ? behind - padding : 0;
    for (uint32_t i = 0; i < file->tensor_index.count; i++) {
        struct gguf_tensor *tensor = &file->tensors[i];
        /* Of a type without a known size, at least the first byte must be there. */
        uint64_t bytes = tensor->bytes == 0 ? 1 : tensor->bytes;
        if (bytes > section_bytes || offsets[i] > section_bytes - bytes) {
            return err_fail(ERR_FORMAT,
                            "tensor %s: %" PRIu64 " bytes of data at offset %" PRIu64
                            ", expected them inside the file's data section of %zu bytes (is the "
                            "file cut short?)",
                            gguf_file_label(tensor->name).text, bytes, offsets[i], section_bytes);
        }
        if (tensor->is_supported) {
            tensor->data = file->data + records_end + padding + offsets[i];
        }
    }
    return ERR_OK;
}

static int offset_is_less(const void *context, uint32_t a, uint32_t b) {
    const uint64_t *offsets = context;
    return offsets[a] < offsets[b];
}

/* Sorts ORDER by offset on the way. After place, so that no sum wraps around. */
static enum err check_overlap(const struct gguf *file, uint32_t *order, const uint64_t *offsets) {
    uint32_t count = file->tensor_index.count;
    for (uint32_t i = 0; i < count; i++) {
        order[i] = i;
    }
    gguf_index_sort(order, count, offset_is_less, offsets);
    for (uint32_t i = 1; i < count; i++) {
        const struct gguf_tensor *before = &file->tensors[order[i - 1]];
        uint64_t bytes = before->bytes == 0 ? 1 : before->bytes;
        if (offsets[order[i]] < offsets[order[i - 1]] + bytes) {
            return err_fail(ERR_FORMAT,
                            "tensor %s: data at offset %" PRIu64
                            " lies within that of tensor %s, expected it apart",
                            gguf_file_label(file->tensors[order[i]].name).text, offsets[order[i]],
                            gguf_file_label(before->name).text);
        }
    }
    return ERR_OK;
}

static enum err read_all(struct gguf *file, struct gguf_cursor *cursor, uint32_t alignment,
                         uint64_t *offsets) {
    uint32_t count = file->tensor_index.count;
    for (uint32_t i = 0; i < count; i++) {
        TRY(read_record(cursor, i, alignment, &file->tensors[i], &offsets[i]));
    }
    TRY(place(file, cursor->at, alignment, offsets));
    TRY(check_overlap(file, file->tensor_index.order, offsets));
    gguf_index_build(&file->tensor_index);
    uint32_t twice = gguf_index_duplicate(&file->tensor_index);
    if (twice < count) {
        return err_fail(ERR_FORMAT, "tensor %s stands in the file twice, expected once",
                        gguf_file_label(file->tensors[twice].name).text);
    }
    return ERR_OK;
}

enum err gguf_file_read_tensors(struct gguf *file, struct gguf_cursor *cursor, uint32_t count,
                                uint32_t alignment) {
    if (count == 0) {
        return ERR_OK;
    }
    file->tensors = calloc(count, sizeof *file->tensors);
    file->tensor_index.order = calloc(count, sizeof *file->tensor_index.order);
    uint64_t *offsets = calloc(count, sizeof *offsets);
    if (file->tensors == NULL || file->tensor_index.order == NULL || offsets == NULL) {
        free(offsets);
        return err_fail(ERR_NOMEM, "no memory for %" PRIu32 " tensors", count);
    }
    file->tensor_index.items = file->tensors;
    file->tensor_index.stride_bytes = sizeof *file->tensors;
    file->tensor_index.count = count;
    enum err err = read_all(file, cursor, alignment, offsets);
    free(offsets);
    return err;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *file, const char *name) {
    uint32_t found = gguf_index_find(&file->tensor_index, name, strlen(name));
    return found < file->tensor_index.count ? &file->tensors[found] : NULL;
}

size_t gguf_tensor_count(const struct gguf *file) {
    return file->tensor_index.count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index) {
    assert(index < file->tensor_index.count);
    return &file->tensors[index];
}
