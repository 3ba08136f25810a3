/*
 * offset 0: "\x93NUMPY", 1, 0; offset 8: header length, little-endian 16 bits;
 * offset 10: a Python dict as text, padded with blanks and ended by a newline so
 * that the data starts at a multiple of 64; then the values.
 */
#include "tools/npy.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEADER_BYTES = 128, PREAMBLE_BYTES = 10 };

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are written as they lie");

static enum err io_error(const struct npy *npy) {
    return err_fail(ERR_IO, "cannot write '%s': %s", npy->path, strerror(errno));
}

enum err npy_create(const char *path, size_t rows, size_t columns, struct npy *out) {
    struct npy npy = {.path = path, .rows_left = rows, .columns = columns};
    char header[HEADER_BYTES + 1];
    int text =
        snprintf(header + PREAMBLE_BYTES, sizeof header - PREAMBLE_BYTES,
                 "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, columns);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(HEADER_BYTES - PREAMBLE_BYTES);
    header[9] = 0;
    memset(header + PREAMBLE_BYTES + text, ' ', (size_t)(HEADER_BYTES - PREAMBLE_BYTES - text));
    header[HEADER_BYTES - 1] = '\n';
    npy.file = fopen(path, "wb");
    if (npy.file == NULL) {
        return io_error(&npy);
    }
    if (fwrite(header, 1, HEADER_BYTES, npy.file) != HEADER_BYTES) {
        enum err code = io_error(&npy);
        npy_abandon(&npy);
        return code;
    }
    *out = npy;
    return ERR_OK;
}

enum err npy_write_row(struct npy *npy, const float *row) {
    assert(npy->rows_left > 0);
    if (fwrite(row, sizeof *row, npy->columns, npy->file) != npy->columns) {
        return io_error(npy);
    }
    npy->rows_left--;
    return ERR_OK;
}

enum err npy_finish(struct npy *npy) {
    assert(npy->rows_left == 0);
    if (fflush(npy->file) != 0) {
        return io_error(npy); /* npy_abandon takes the file away */
    }
    FILE *file = npy->file;
    npy->file = NULL;
    if (fclose(file) != 0) {
        return io_error(npy);
    }
    return ERR_OK;
}

void npy_abandon(struct npy *npy) {
    if (npy->file == NULL) {
        return;
    }
    /* Only a file of ours: not a device or a pipe that the caller named. */
    struct stat status;
    int is_file = fstat(fileno(npy->file), &status) == 0 && S_ISREG(status.st_mode);
    fclose(npy->file);
    npy->file = NULL;
    if (is_file) {
        unlink(npy->path);
    }
}
