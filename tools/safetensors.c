/*
 * offset 0: bytes of the header, little-endian 64 bits; offset 8: the header, a JSON object padded
 * with blanks to a multiple of 8: each tensor's name with {"dtype", "shape", "data_offsets":
 * [begin, end]}, and "__metadata__" with the texts; then the tensors' bytes, without gaps, which
 * the offsets count from.
 */
#include "tools/safetensors.h"

#include "base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are written as they lie");

enum { PATH_BYTES = 4096, LENGTH_BYTES = 8, ALIGN_BYTES = 8 };

struct safetensors {
    char path[PATH_BYTES];
    char part[PATH_BYTES]; /* under which it is written */
    int fd;
    uint64_t data_at; /* offset of the first tensor in the file */
    uint64_t bytes_left;
};

static enum err io_error(const char *path) {
    return err_fail(ERR_IO, "cannot write '%s': %s", path, strerror(errno));
}

static enum err write_at(const struct safetensors *file, uint64_t at, const void *bytes,
                         size_t len) {
    const char *from = bytes;
    while (len > 0) {
        ssize_t written = pwrite(file->fd, from, len, (off_t)at);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return io_error(file->part);
        }
        from += written;
        at += (uint64_t)written;
        len -= (size_t)written;
    }
    return ERR_OK;
}

static json_t *tensor_json(const struct safetensors_tensor *tensor) {
    json_t *shape = json_array();
    for (int i = 0; i < tensor->dim_count && shape != NULL; i++) {
        if (json_array_append_new(shape, json_integer((json_int_t)tensor->dims[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(tensor->type), "shape", shape,
                     "data_offsets", (json_int_t)tensor->offset_bytes,
                     (json_int_t)(tensor->offset_bytes + tensor->bytes));
}

/* Lays the tensors out one behind the other; NULL: out of memory. */
static char *header_text(struct safetensors_tensor *tensors, size_t count, const json_t *metadata,
                         uint64_t *data_bytes) {
    uint64_t end = 0;
    json_t *header = json_object();
    json_t *texts = json_deep_copy(metadata);
    int is_good = header != NULL && json_object_set_new(header, "__metadata__", texts) == 0;
    for (size_t i = 0; i < count && is_good; i++) {
        struct safetensors_tensor *tensor = &tensors[i];
        uint64_t values = 1;
        for (int d = 0; d < tensor->dim_count; d++) {
            values *= tensor->dims[d];
        }
        tensor->offset_bytes = end;
        tensor->bytes = values * dtype_bytes(tensor->type, 1);
        end += tensor->bytes;
        is_good = json_object_set_new(header, tensor->name, tensor_json(tensor)) == 0;
    }
    char *text = is_good ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    *data_bytes = end;
    return text;
}

static enum err write_header(struct safetensors *file, const char *text) {
    static const char blanks[ALIGN_BYTES] = "       ";
    uint8_t length[LENGTH_BYTES];
    size_t text_bytes = strlen(text);
    size_t pad = (ALIGN_BYTES - text_bytes % ALIGN_BYTES) % ALIGN_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) {
        length[i] = (uint8_t)((uint64_t)(text_bytes + pad) >> (8 * i));
    }
    file->data_at = LENGTH_BYTES + text_bytes + pad;
    TRY(write_at(file, 0, length, sizeof length));
    TRY(write_at(file, LENGTH_BYTES, text, text_bytes));
    return write_at(file, LENGTH_BYTES + text_bytes, blanks, pad);
}

static enum err open_part(struct safetensors *file, const char *path) {
    int len = snprintf(file->part, sizeof file->part, "%s.part", path);
    if (len < 0 || len >= PATH_BYTES) {
        return err_fail(ERR_INVALID, "path %.64s... is too long", path);
    }
    snprintf(file->path, sizeof file->path, "%s", path);
    unlink(file->part); /* of a run that was killed */
    file->fd = open(file->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return file->fd >= 0 ? ERR_OK : io_error(file->part);
}

enum err safetensors_create(const char *path, struct safetensors_tensor *tensors, size_t count,
                            const json_t *metadata, struct safetensors **out) {
    struct safetensors *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return err_fail(ERR_NOMEM, "safetensors file");
    }
    file->fd = -1;
    char *text = header_text(tensors, count, metadata, &file->bytes_left);
    enum err code =
        text != NULL ? open_part(file, path) : err_fail(ERR_NOMEM, "header of '%s'", path);
    if (code == ERR_OK) {
        code = write_header(file, text);
    }
    free(text);
    if (code != ERR_OK) {
        safetensors_abandon(file);
        return code;
    }
    *out = file;
    return ERR_OK;
}

enum err safetensors_write(struct safetensors *file, const struct safetensors_tensor *tensor,
                           uint64_t at, const void *bytes, size_t len) {
    assert(at <= tensor->bytes && len <= tensor->bytes - at && len <= file->bytes_left);
    TRY(write_at(file, file->data_at + tensor->offset_bytes + at, bytes, len));
    file->bytes_left -= len;
    return ERR_OK;
}

enum err safetensors_finish(struct safetensors *file) {
    assert(file->bytes_left == 0);
    if (fsync(file->fd) != 0) {
        return io_error(file->part);
    }
    int result = close(file->fd);
    file->fd = -1;
    if (result != 0 || rename(file->part, file->path) != 0) {
        return io_error(file->path);
    }
    free(file);
    return ERR_OK;
}

void safetensors_abandon(struct safetensors *file) {
    if (file == NULL) {
        return;
    }
    if (file->fd >= 0) {
        close(file->fd);
    }
    if (file->path[0] != '\0') { /* else the part's name was never made */
        unlink(file->part);
    }
    free(file);
}
