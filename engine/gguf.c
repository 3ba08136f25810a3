/*
 * Opening a file and reading its header. Invariants of the whole reader:
 *
 * I1  No byte is read before the cursor has found it inside the file.
 * I2  A count from the file is compared with what the rest of the file can hold before anything is
 *     allocated for it. An entry takes 14 bytes in the file and 52 in memory, a tensor 33 and 100
 *     while it is read, a string of an array 8 and 8: below GGUF_ALLOCATION_FACTOR each.
 * I3  Names are unique, not empty and without NUL.
 * I4  Every tensor with a known type lies inside the data section, and no two of them overlap.
 * I5  After gguf_parse nothing changes: readers need no lock.
 *
 * Header of the file, little-endian:
 *
 *     0  4  "GGUF"
 *     4  4  version, 3
 *     8  8  number of tensors
 *    16  8  number of keys
 *    24     keys, tensor records, padding to the alignment, tensor data
 */
#include "engine/gguf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 24, VERSION = 3 };

_Static_assert(sizeof(struct gguf_file_entry) + sizeof(uint32_t) <=
                   GGUF_FILE_ENTRY_BYTES_MIN * GGUF_ALLOCATION_FACTOR,
               "an entry and its place in the index (I2)");
_Static_assert(sizeof(struct gguf_tensor) + sizeof(uint32_t) + sizeof(uint64_t) <=
                   GGUF_FILE_TENSOR_BYTES_MIN * GGUF_ALLOCATION_FACTOR,
               "a tensor, its place in the index and its offset (I2)");

struct gguf_file_label gguf_file_label(struct gguf_string string) {
    enum { SHOWN_MAX = 80 };
    struct gguf_file_label label;
    size_t used = 0;
    label.text[used++] = '\'';
    for (size_t i = 0; i < string.len && i < SHOWN_MAX; i++) {
        char c = string.text[i];
        label.text[used++] = c >= ' ' && c <= '~' ? c : '?';
    }
    memcpy(label.text + used, string.len > SHOWN_MAX ? "...'" : "'",
           string.len > SHOWN_MAX ? sizeof "...'" : sizeof "'");
    return label;
}

enum err gguf_file_check_name(struct gguf_string name, size_t len_max) {
    if (name.len == 0 || name.len > len_max) {
        return err_fail(ERR_FORMAT, "name of %zu bytes, expected 1 to %zu", name.len, len_max);
    }
    if (memchr(name.text, '\0', name.len) != NULL) {
        return err_fail(ERR_FORMAT, "name %s holds a NUL", gguf_file_label(name).text);
    }
    return ERR_OK;
}

enum err gguf_file_check_count(const char *what, uint64_t count, uint64_t bytes_min,
                               uint64_t bytes) {
    if (count > bytes / bytes_min) {
        return err_fail(ERR_FORMAT,
                        "%" PRIu64 " %s claimed, expected at most the %" PRIu64
                        " that fit in the %" PRIu64 " bytes left",
                        count, what, bytes / bytes_min, bytes);
    }
    if (count >= UINT32_MAX) {
        return err_fail(ERR_FORMAT, "%" PRIu64 " %s claimed, expected fewer than 2^32 - 1", count,
                        what);
    }
    return ERR_OK;
}

static enum err check_magic(const uint8_t *header) {
    if (memcmp(header, "GGUF", 4) != 0) {
        return err_fail(ERR_FORMAT,
                        "not a GGUF file: begins with %02x %02x %02x %02x, expected \"GGUF\"",
                        header[0], header[1], header[2], header[3]);
    }
    uint32_t version = gguf_cursor_load_u32(header + 4);
    if (version != 0 && (version & 0xffff) == 0) {
        return err_fail(ERR_UNSUPPORTED,
                        "big-endian GGUF (version reads 0x%08" PRIx32 "), expected little-endian",
                        version);
    }
    if (version != VERSION) {
        return err_fail(ERR_UNSUPPORTED, "GGUF version %" PRIu32 ", expected %d", version, VERSION);
    }
    return ERR_OK;
}

static enum err read_alignment(const struct gguf *file, uint32_t *out) {
    const char *key = "general.alignment";
    const struct gguf_file_entry *entry = gguf_file_find_entry(file, key);
    if (entry == NULL) {
        *out = GGUF_FILE_ALIGNMENT_DEFAULT;
        return ERR_OK;
    }
    uint32_t alignment = 0;
    TRY(gguf_get_u32(file, key, &alignment));
    if (alignment < GGUF_FILE_ALIGNMENT_MIN || alignment > GGUF_FILE_ALIGNMENT_MAX ||
        (alignment & (alignment - 1)) != 0) {
        return err_fail(ERR_FORMAT, "key '%s': %" PRIu32 ", expected a power of two from %d to %d",
                        key, alignment, GGUF_FILE_ALIGNMENT_MIN, GGUF_FILE_ALIGNMENT_MAX);
    }
    *out = alignment;
    return ERR_OK;
}

static enum err read_file(struct gguf *file) {
    struct gguf_cursor cursor = {.data = file->data, .bytes = file->bytes};
    const uint8_t *header = NULL;
    TRY(gguf_cursor_take(&cursor, HEADER_BYTES, "the GGUF header", &header));
    TRY(check_magic(header));
    uint64_t tensor_count = gguf_cursor_load_u64(header + 8);
    uint64_t entry_count = gguf_cursor_load_u64(header + 16);
    uint64_t left = gguf_cursor_left(&cursor);
    TRY(gguf_file_check_count("keys", entry_count, GGUF_FILE_ENTRY_BYTES_MIN, left));
    left -= entry_count * GGUF_FILE_ENTRY_BYTES_MIN;
    TRY(gguf_file_check_count("tensors", tensor_count, GGUF_FILE_TENSOR_BYTES_MIN, left));

    uint32_t alignment = 0;
    TRY(gguf_file_read_entries(file, &cursor, (uint32_t)entry_count));
    TRY(read_alignment(file, &alignment));
    return gguf_file_read_tensors(file, &cursor, (uint32_t)tensor_count, alignment);
}

static enum err parse(struct gguf *file, struct gguf **out) {
    enum err err = read_file(file);
    if (err != ERR_OK) {
        gguf_close(file);
        return err;
    }
    *out = file;
    return ERR_OK;
}

enum err gguf_parse(const void *data, size_t bytes, struct gguf **out) {
    assert((uintptr_t)data % GGUF_FILE_ALIGNMENT_MIN == 0);
    struct gguf *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return err_fail(ERR_NOMEM, "no memory for a GGUF reader");
    }
    file->data = data;
    file->bytes = bytes;
    return parse(file, out);
}

static int64_t nanoseconds(struct timespec time) {
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* Maps FD read-only into FILE, and notes which file it is. */
static enum err map_file(int fd, struct gguf *file) {
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return err_fail(ERR_IO, "fstat: %s", strerror(errno));
    }
    if (!S_ISREG(status.st_mode)) {
        return err_fail(ERR_IO, "not a regular file");
    }
    if (status.st_size < HEADER_BYTES) {
        return err_fail(ERR_FORMAT, "%" PRId64 " bytes long, expected a GGUF header of %d",
                        (int64_t)status.st_size, HEADER_BYTES);
    }
    void *data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        return err_fail(ERR_IO, "mmap: %s", strerror(errno));
    }
    file->data = data;
    file->bytes = (size_t)status.st_size;
    file->is_mapped = 1;
    file->identity = (struct gguf_identity){
        .device = status.st_dev,
        .inode = status.st_ino,
        .size_bytes = (uint64_t)status.st_size,
        .mtime_ns = nanoseconds(status.st_mtim),
        .ctime_ns = nanoseconds(status.st_ctim),
    };
    return ERR_OK;
}

static enum err open_file(const char *path, struct gguf **out) {
    /* O_NONBLOCK: a named pipe is refused by its type, not waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return err_fail(ERR_IO, "open: %s", strerror(errno));
    }
    struct gguf *file = calloc(1, sizeof *file);
    if (file == NULL) {
        close(fd);
        return err_fail(ERR_NOMEM, "no memory for a GGUF reader");
    }
    enum err err = map_file(fd, file);
    close(fd); /* the map stays */
    if (err != ERR_OK) {
        gguf_close(file);
        return err;
    }
    return parse(file, out);
}

enum err gguf_open(const char *path, struct gguf **out) {
    enum err err = open_file(path, out);
    return err == ERR_OK ? ERR_OK : err_context(err, "%s", path);
}

void gguf_close(struct gguf *file) {
    if (file == NULL) {
        return;
    }
    for (uint32_t i = 0; i < file->entry_index.count; i++) {
        free(file->entries[i].string_at);
    }
    free(file->entries);
    free(file->entry_index.order);
    free(file->tensors);
    free(file->tensor_index.order);
    if (file->is_mapped) {
        munmap((void *)(uintptr_t)file->data, file->bytes);
    }
    free(file);
}

const void *gguf_data(const struct gguf *file, size_t *bytes_out) {
    *bytes_out = file->bytes;
    return file->data;
}

int gguf_get_identity(const struct gguf *file, struct gguf_identity *out) {
    if (file->is_mapped) {
        *out = file->identity;
    }
    return file->is_mapped;
}
