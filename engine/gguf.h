/*
 * A GGUF v3 file, mapped and checked. The file is untrusted: every count, length,
 * offset and type is checked against the file's size before it is used, and what
 * the parser allocates stays below GGUF_ALLOCATION_FACTOR times the file's size.
 * Errors name the key or tensor and what was expected.
 *
 * Everything that gguf_get_* and gguf_find_tensor hand out points into the map and
 * is valid until gguf_close. Reading is safe from several threads.
 */
#ifndef TERN_ENGINE_GGUF_H
#define TERN_ENGINE_GGUF_H

#include "base/err.h"
#include "gpu/dtype.h"

/* Allocations of gguf_open and gguf_parse stay below this times the file's size plus 64 KiB. */
enum { GGUF_ALLOCATION_FACTOR = 4, GGUF_DIMS_MAX = 4 };

enum gguf_type {
    GGUF_TYPE_U8,
    GGUF_TYPE_I8,
    GGUF_TYPE_U16,
    GGUF_TYPE_I16,
    GGUF_TYPE_U32,
    GGUF_TYPE_I32,
    GGUF_TYPE_F32,
    GGUF_TYPE_BOOL,
    GGUF_TYPE_STRING,
    GGUF_TYPE_ARRAY,
    GGUF_TYPE_U64,
    GGUF_TYPE_I64,
    GGUF_TYPE_F64,
};

struct gguf;

struct gguf_string {
    const char *text; /* not terminated */
    size_t len;
};

struct gguf_key {
    struct gguf_string name;
    enum gguf_type type;
};

struct gguf_array {
    enum gguf_type type; /* of the elements; arrays of arrays are refused */
    uint64_t count;
    const struct gguf *file;
    size_t index; /* internal */
};

struct gguf_tensor {
    struct gguf_string name;
    uint32_t type_number; /* as in the file */
    int is_supported;     /* `type` is meaningful */
    enum dtype type;
    int dim_count;                /* 1 to GGUF_DIMS_MAX */
    uint64_t dims[GGUF_DIMS_MAX]; /* fastest first; unused ones are 1 */
    uint64_t values;              /* product of dims */
    const void *data; /* `bytes` long, inside the map, aligned to 8; NULL if not supported */
    size_t bytes;     /* 0 if the type's size is not known */
};

/* Which file was mapped, and in which state. */
struct gguf_identity {
    uint64_t device;
    uint64_t inode;
    uint64_t size_bytes;
    int64_t mtime_ns;
    int64_t ctime_ns;
};

/*
 * Maps PATH. ERR_IO, ERR_FORMAT (malformed), ERR_UNSUPPORTED (another version or byte order, or
 * arrays of arrays). A file that another process cuts short while it is mapped ends in SIGBUS.
 */
MUST_USE enum err gguf_open(const char *path, struct gguf **out);

/* The same over memory, aligned to 8, that the caller keeps until gguf_close. */
MUST_USE enum err gguf_parse(const void *data, size_t bytes, struct gguf **out);
void gguf_close(struct gguf *file);

/* Keys in the order of the file; INDEX is below the count. */
size_t gguf_key_count(const struct gguf *file);
struct gguf_key gguf_key_at(const struct gguf *file, size_t index);
int gguf_has(const struct gguf *file, const char *key);

/*
 * ERR_NOT_FOUND when the key is missing (out untouched), ERR_FORMAT when it has another type or
 * does not fit. Integer getters take every integer type of the file whose value fits, gguf_get_f32
 * also f64.
 */
MUST_USE enum err gguf_get_u32(const struct gguf *file, const char *key, uint32_t *out);
MUST_USE enum err gguf_get_f32(const struct gguf *file, const char *key, float *out);
MUST_USE enum err gguf_get_bool(const struct gguf *file, const char *key, int *out);
MUST_USE enum err gguf_get_string(const struct gguf *file, const char *key,
                                  struct gguf_string *out);
MUST_USE enum err gguf_get_array(const struct gguf *file, const char *key, struct gguf_array *out);

/*
 * Element INDEX: O(1), strings too. ERR_FORMAT for another element type, ERR_INVALID for an index
 * at or above count. As integers pass all integer types and bool (0, 1); as f32 also f64.
 */
MUST_USE enum err gguf_array_i64(const struct gguf_array *array, uint64_t index, int64_t *out);
MUST_USE enum err gguf_array_f32(const struct gguf_array *array, uint64_t index, float *out);
MUST_USE enum err gguf_array_string(const struct gguf_array *array, uint64_t index,
                                    struct gguf_string *out);

/* NULL when there is none of that name. */
const struct gguf_tensor *gguf_find_tensor(const struct gguf *file, const char *name);
size_t gguf_tensor_count(const struct gguf *file);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index);

/* The whole file's bytes, for digests. */
const void *gguf_data(const struct gguf *file, size_t *bytes_out);

/* False, and *out untouched, for a file over memory. Taken from the mapped file itself, not PATH.
 */
int gguf_get_identity(const struct gguf *file, struct gguf_identity *out);

/*
 * "Q4_K" and the like for every number the format knows (static text), "type 99" otherwise (valid
 * until this thread's next call).
 */
const char *gguf_tensor_type_name(uint32_t type_number);

#endif
