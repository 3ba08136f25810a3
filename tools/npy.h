/*
 * Writes a two-dimensional little-endian float32 array in NumPy's .npy format,
 * version 1.0, row by row.
 */
#ifndef TERN_TOOLS_NPY_H
#define TERN_TOOLS_NPY_H

#include "base/err.h"

#include <stdio.h>

struct npy {
    FILE *file;
    const char *path; /* borrowed */
    size_t rows_left;
    size_t columns;
};

/* Creates PATH and writes the header of [rows][columns]. */
MUST_USE enum err npy_create(const char *path, size_t rows, size_t columns, struct npy *out);
MUST_USE enum err npy_write_row(struct npy *npy, const float *row);

/* Checks that every row was written and that the file took them. */
MUST_USE enum err npy_finish(struct npy *npy);

/* Closes without a check and removes the unfinished file (a device or a pipe stays); after
 * npy_finish it does nothing. */
void npy_abandon(struct npy *npy);

#endif
