/*
 * What the parts of the GGUF reader share: the open file, its keys and its tensors.
 * Internal; gguf.h is the interface.
 */
#ifndef TERN_ENGINE_GGUF_FILE_H
#define TERN_ENGINE_GGUF_FILE_H

#include "engine/gguf.h"
#include "engine/gguf_cursor.h"
#include "engine/gguf_index.h"

enum {
    /* What a key and a tensor take in the file at least; bounds their claimed counts. */
    GGUF_FILE_ENTRY_BYTES_MIN = 8 + 1 + 4 + 1,
    GGUF_FILE_TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8,
    GGUF_FILE_STRING_BYTES_MIN = 8,
    /* The format's own limits on names. */
    GGUF_FILE_KEY_LEN_MAX = 65535,
    GGUF_FILE_TENSOR_NAME_LEN_MAX = 64,
    GGUF_FILE_ALIGNMENT_DEFAULT = 32,
    /* Below 8, weights could not be read in place; above a huge page, nobody has a use for it. */
    GGUF_FILE_ALIGNMENT_MIN = 8,
    GGUF_FILE_ALIGNMENT_MAX = 2 << 20,
};

/* One key and its value. */
struct gguf_file_entry {
    struct gguf_string name; /* first, for gguf_index */
    const uint8_t *value;    /* of an array: its first element */
    uint64_t count;          /* elements of an array */
    uint64_t *string_at;     /* of a string array: offset of each element in the file; owned */
    uint8_t type;            /* enum gguf_type */
    uint8_t element_type;    /* enum gguf_type, of an array */
};

struct gguf {
    const uint8_t *data;
    size_t bytes;
    int is_mapped;
    struct gguf_identity identity; /* set if is_mapped */
    struct gguf_file_entry *entries;
    struct gguf_index entry_index; /* owns its order */
    struct gguf_tensor *tensors;
    struct gguf_index tensor_index; /* owns its order */
};

/* A string made fit for a message: printable ASCII, at most 80 characters, in quotes. */
struct gguf_file_label {
    char text[96];
};

struct gguf_file_label gguf_file_label(struct gguf_string string);

/* ERR_FORMAT unless NAME has 1 to LEN_MAX bytes and no NUL. */
MUST_USE enum err gguf_file_check_name(struct gguf_string name, size_t len_max);

/* ERR_FORMAT unless COUNT records of at least BYTES_MIN bytes fit in BYTES. */
MUST_USE enum err gguf_file_check_count(const char *what, uint64_t count, uint64_t bytes_min,
                                        uint64_t bytes);

/* Reads COUNT (checked) keys with their values and indexes them. */
MUST_USE enum err gguf_file_read_entries(struct gguf *file, struct gguf_cursor *cursor,
                                         uint32_t count);

/* NULL when there is none. */
const struct gguf_file_entry *gguf_file_find_entry(const struct gguf *file, const char *key);

/* "uint32" and the like, NULL for a number that is no type. */
const char *gguf_file_type_name(uint32_t type);

/* Bytes of one value; 0 for strings, arrays and numbers that are no type. */
size_t gguf_file_type_bytes(uint32_t type);

/* Reads COUNT (checked) tensor records, indexes them and checks where their data lies. */
MUST_USE enum err gguf_file_read_tensors(struct gguf *file, struct gguf_cursor *cursor,
                                         uint32_t count, uint32_t alignment);

#endif
