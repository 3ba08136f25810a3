/*
 * Keys and values: reading them (I1 to I3 of gguf.c) and handing them out.
 *
 * A key in the file: length (8), name, type (4), value. A string value: length (8), bytes. An
 * array: element type (4), count (8), the elements one behind the other without padding.
 */
#include "engine/gguf_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct type_fact {
    const char *name;
    size_t bytes;
};

static const struct type_fact facts[] = {
    [GGUF_TYPE_U8] = {"uint8", 1},    [GGUF_TYPE_I8] = {"int8", 1},
    [GGUF_TYPE_U16] = {"uint16", 2},  [GGUF_TYPE_I16] = {"int16", 2},
    [GGUF_TYPE_U32] = {"uint32", 4},  [GGUF_TYPE_I32] = {"int32", 4},
    [GGUF_TYPE_F32] = {"float32", 4}, [GGUF_TYPE_BOOL] = {"bool", 1},
    [GGUF_TYPE_STRING] = {"string"},  [GGUF_TYPE_ARRAY] = {"array"},
    [GGUF_TYPE_U64] = {"uint64", 8},  [GGUF_TYPE_I64] = {"int64", 8},
    [GGUF_TYPE_F64] = {"float64", 8},
};

const char *gguf_file_type_name(uint32_t type) {
    return type < ARRAY_LEN(facts) ? facts[type].name : NULL;
}

size_t gguf_file_type_bytes(uint32_t type) {
    return type < ARRAY_LEN(facts) ? facts[type].bytes : 0;
}

static enum err check_type(uint32_t type) {
    if (gguf_file_type_name(type) == NULL) {
        return err_fail(ERR_FORMAT, "value type %" PRIu32 ", expected 0 to %zu", type,
                        ARRAY_LEN(facts) - 1);
    }
    return ERR_OK;
}

static enum err check_bools(const uint8_t *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (values[i] > 1) {
            return err_fail(ERR_FORMAT, "bool %" PRIu64 " is %d, expected 0 or 1", i, values[i]);
        }
    }
    return ERR_OK;
}

static enum err read_string_array(struct gguf_cursor *cursor, struct gguf_file_entry *entry) {
    TRY(gguf_file_check_count("strings", entry->count, GGUF_FILE_STRING_BYTES_MIN,
                              gguf_cursor_left(cursor)));
    if (entry->count == 0) {
        return ERR_OK;
    }
    entry->string_at = malloc(entry->count * sizeof *entry->string_at); /* I2 */
    if (entry->string_at == NULL) {
        return err_fail(ERR_NOMEM, "no memory for the index of %" PRIu64 " strings", entry->count);
    }
    for (uint64_t i = 0; i < entry->count; i++) {
        struct gguf_string element;
        entry->string_at[i] = cursor->at;
        enum err err = gguf_cursor_string(cursor, "the string", &element);
        if (err != ERR_OK) {
            return err_context(err, "string %" PRIu64 " of %" PRIu64, i, entry->count);
        }
    }
    return ERR_OK;
}

static enum err read_array(struct gguf_cursor *cursor, struct gguf_file_entry *entry) {
    uint32_t type = 0;
    TRY(gguf_cursor_u32(cursor, "the type of the array's elements", &type));
    TRY(check_type(type));
    if (type == GGUF_TYPE_ARRAY) {
        return err_fail(ERR_UNSUPPORTED, "array of arrays, expected elements of a plain type");
    }
    entry->element_type = (uint8_t)type;
    TRY(gguf_cursor_u64(cursor, "the array's count", &entry->count));
    if (type == GGUF_TYPE_STRING) {
        return read_string_array(cursor, entry);
    }
    size_t bytes = gguf_file_type_bytes(type);
    TRY(gguf_file_check_count("array elements", entry->count, bytes, gguf_cursor_left(cursor)));
    TRY(gguf_cursor_take(cursor, entry->count * bytes, "the array", &entry->value));
    return type == GGUF_TYPE_BOOL ? check_bools(entry->value, entry->count) : ERR_OK;
}

static enum err read_value(struct gguf_cursor *cursor, struct gguf_file_entry *entry) {
    uint32_t type = 0;
    TRY(gguf_cursor_u32(cursor, "the value's type", &type));
    TRY(check_type(type));
    entry->type = (uint8_t)type;
    if (type == GGUF_TYPE_ARRAY) {
        return read_array(cursor, entry);
    }
    if (type == GGUF_TYPE_STRING) {
        struct gguf_string text;
        entry->value = cursor->data + cursor->at;
        return gguf_cursor_string(cursor, "the string", &text);
    }
    TRY(gguf_cursor_take(cursor, gguf_file_type_bytes(type), "the value", &entry->value));
    return type == GGUF_TYPE_BOOL ? check_bools(entry->value, 1) : ERR_OK;
}

static enum err read_entry(struct gguf_cursor *cursor, uint32_t number,
                           struct gguf_file_entry *entry) {
    struct gguf_string name;
    enum err err = gguf_cursor_string(cursor, "the name", &name);
    if (err == ERR_OK) {
        err = gguf_file_check_name(name, GGUF_FILE_KEY_LEN_MAX);
    }
    if (err != ERR_OK) {
        return err_context(err, "key %" PRIu32, number);
    }
    entry->name = name;
    err = read_value(cursor, entry);
    if (err != ERR_OK) {
        return err_context(err, "key %s", gguf_file_label(name).text);
    }
    return ERR_OK;
}

enum err gguf_file_read_entries(struct gguf *file, struct gguf_cursor *cursor, uint32_t count) {
    if (count == 0) {
        return ERR_OK;
    }
    file->entries = calloc(count, sizeof *file->entries);
    file->entry_index.order = calloc(count, sizeof *file->entry_index.order);
    if (file->entries == NULL || file->entry_index.order == NULL) {
        return err_fail(ERR_NOMEM, "no memory for %" PRIu32 " keys", count);
    }
    file->entry_index.items = file->entries;
    file->entry_index.stride_bytes = sizeof *file->entries;
    file->entry_index.count = count;
    for (uint32_t i = 0; i < count; i++) {
        TRY(read_entry(cursor, i, &file->entries[i]));
    }
    gguf_index_build(&file->entry_index);
    uint32_t twice = gguf_index_duplicate(&file->entry_index);
    if (twice < count) {
        return err_fail(ERR_FORMAT, "key %s stands in the file twice, expected once",
                        gguf_file_label(file->entries[twice].name).text);
    }
    return ERR_OK;
}

const struct gguf_file_entry *gguf_file_find_entry(const struct gguf *file, const char *key) {
    uint32_t found = gguf_index_find(&file->entry_index, key, strlen(key));
    return found < file->entry_index.count ? &file->entries[found] : NULL;
}

int gguf_has(const struct gguf *file, const char *key) {
    return gguf_file_find_entry(file, key) != NULL;
}

size_t gguf_key_count(const struct gguf *file) {
    return file->entry_index.count;
}

struct gguf_key gguf_key_at(const struct gguf *file, size_t index) {
    assert(index < file->entry_index.count);
    const struct gguf_file_entry *entry = &file->entries[index];
    return (struct gguf_key){entry->name, (enum gguf_type)entry->type};
}

/* ---- values ---- */

enum integer_result { INTEGER_READ, INTEGER_OTHER_TYPE, INTEGER_TOO_LARGE };

static enum integer_result load_integer(enum gguf_type type, const uint8_t *at, int64_t *out) {
    uint64_t bits = 0;
    if (gguf_file_type_bytes(type) == 0) {
        return INTEGER_OTHER_TYPE; /* AT may be NULL */
    }
    memcpy(&bits, at, gguf_file_type_bytes(type));
    switch (type) {
    case GGUF_TYPE_U8:
    case GGUF_TYPE_U16:
    case GGUF_TYPE_U32:
        *out = (int64_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_U64:
        if (bits > INT64_MAX) {
            return INTEGER_TOO_LARGE;
        }
        *out = (int64_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_I8:
        *out = (int8_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_I16:
        *out = (int16_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_I32:
        *out = (int32_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_I64:
        *out = (int64_t)bits;
        return INTEGER_READ;
    case GGUF_TYPE_F32:
    case GGUF_TYPE_F64:
    case GGUF_TYPE_BOOL:
    case GGUF_TYPE_STRING:
    case GGUF_TYPE_ARRAY:
        break;
    }
    return INTEGER_OTHER_TYPE;
}

/* ERR_FORMAT with no key in the message: the caller knows it. */
static enum err load_f32(enum gguf_type type, const uint8_t *at, float *out) {
    if (type == GGUF_TYPE_F32) {
        memcpy(out, at, sizeof *out);
        return ERR_OK;
    }
    if (type != GGUF_TYPE_F64) {
        return err_fail(ERR_FORMAT, "%s, expected float32 or float64", gguf_file_type_name(type));
    }
    double wide;
    memcpy(&wide, at, sizeof wide);
    if (isfinite(wide) && !isfinite((float)wide)) {
        return err_fail(ERR_FORMAT, "%g does not fit in a float32", wide);
    }
    *out = (float)wide;
    return ERR_OK;
}

static struct gguf_string load_string(const uint8_t *at) {
    return (struct gguf_string){(const char *)at + 8, (size_t)gguf_cursor_load_u64(at)};
}

static enum err find(const struct gguf *file, const char *key, const struct gguf_file_entry **out) {
    const struct gguf_file_entry *entry = gguf_file_find_entry(file, key);
    if (entry == NULL) {
        return err_fail(ERR_NOT_FOUND, "key '%s' is missing", key);
    }
    *out = entry;
    return ERR_OK;
}

static enum err find_of_type(const struct gguf *file, const char *key, enum gguf_type type,
                             const struct gguf_file_entry **out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find(file, key, &entry));
    if (entry->type != type) {
        return err_fail(ERR_FORMAT, "key '%s': %s, expected %s", key,
                        gguf_file_type_name(entry->type), gguf_file_type_name(type));
    }
    *out = entry;
    return ERR_OK;
}

enum err gguf_get_u32(const struct gguf *file, const char *key, uint32_t *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find(file, key, &entry));
    int64_t value = 0;
    switch (load_integer((enum gguf_type)entry->type, entry->value, &value)) {
    case INTEGER_OTHER_TYPE:
        return err_fail(ERR_FORMAT, "key '%s': %s, expected an integer", key,
                        gguf_file_type_name(entry->type));
    case INTEGER_TOO_LARGE:
        return err_fail(ERR_FORMAT, "key '%s': %" PRIu64 " does not fit in a uint32", key,
                        gguf_cursor_load_u64(entry->value));
    case INTEGER_READ:
        break;
    }
    if (value < 0 || value > UINT32_MAX) {
        return err_fail(ERR_FORMAT, "key '%s': %" PRId64 " does not fit in a uint32", key, value);
    }
    *out = (uint32_t)value;
    return ERR_OK;
}

enum err gguf_get_f32(const struct gguf *file, const char *key, float *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find(file, key, &entry));
    enum err err = load_f32((enum gguf_type)entry->type, entry->value, out);
    return err == ERR_OK ? ERR_OK : err_context(err, "key '%s'", key);
}

enum err gguf_get_bool(const struct gguf *file, const char *key, int *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find_of_type(file, key, GGUF_TYPE_BOOL, &entry));
    *out = entry->value[0];
    return ERR_OK;
}

enum err gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find_of_type(file, key, GGUF_TYPE_STRING, &entry));
    *out = load_string(entry->value);
    return ERR_OK;
}

enum err gguf_get_array(const struct gguf *file, const char *key, struct gguf_array *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(find_of_type(file, key, GGUF_TYPE_ARRAY, &entry));
    out->type = (enum gguf_type)entry->element_type;
    out->count = entry->count;
    out->file = file;
    out->index = (size_t)(entry - file->entries);
    return ERR_OK;
}

/* ---- elements of arrays ---- */

static enum err element(const struct gguf_array *array, uint64_t index,
                        const struct gguf_file_entry **out) {
    const struct gguf_file_entry *entry = &array->file->entries[array->index];
    if (index >= entry->count) {
        return err_fail(ERR_INVALID, "key %s: element %" PRIu64 " of %" PRIu64 " asked for",
                        gguf_file_label(entry->name).text, index, entry->count);
    }
    *out = entry;
    return ERR_OK;
}

static enum err element_type_error(const struct gguf_file_entry *entry, const char *expected) {
    return err_fail(ERR_FORMAT, "key %s: array of %s, expected %s",
                    gguf_file_label(entry->name).text, gguf_file_type_name(entry->element_type),
                    expected);
}

enum err gguf_array_i64(const struct gguf_array *array, uint64_t index, int64_t *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(element(array, index, &entry));
    enum gguf_type type = (enum gguf_type)entry->element_type;
    if (type == GGUF_TYPE_STRING) {
        return element_type_error(entry, "integers");
    }
    const uint8_t *at = entry->value + index * gguf_file_type_bytes(type);
    int64_t value = 0;
    switch (load_integer(type == GGUF_TYPE_BOOL ? GGUF_TYPE_U8 : type, at, &value)) {
    case INTEGER_OTHER_TYPE:
        return element_type_error(entry, "integers");
    case INTEGER_TOO_LARGE:
        return err_fail(ERR_FORMAT,
                        "key %s: element %" PRIu64 ": %" PRIu64 " does not fit in an "
                        "int64",
                        gguf_file_label(entry->name).text, index, gguf_cursor_load_u64(at));
    case INTEGER_READ:
        break;
    }
    *out = value;
    return ERR_OK;
}

enum err gguf_array_f32(const struct gguf_array *array, uint64_t index, float *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(element(array, index, &entry));
    enum gguf_type type = (enum gguf_type)entry->element_type;
    if (type != GGUF_TYPE_F32 && type != GGUF_TYPE_F64) {
        return element_type_error(entry, "float32 or float64");
    }
    const uint8_t *at = entry->value + index * gguf_file_type_bytes(type);
    enum err err = load_f32(type, at, out);
    if (err != ERR_OK) {
        return err_context(err, "key %s: element %" PRIu64, gguf_file_label(entry->name).text,
                           index);
    }
    return ERR_OK;
}

enum err gguf_array_string(const struct gguf_array *array, uint64_t index,
                           struct gguf_string *out) {
    const struct gguf_file_entry *entry = NULL;
    TRY(element(array, index, &entry));
    if (entry->element_type != GGUF_TYPE_STRING) {
        return element_type_error(entry, "strings");
    }
    *out = load_string(array->file->data + entry->string_at[index]);
    return ERR_OK;
}
