/*
 * A sorted index over items that each begin with a struct gguf_string, their name:
 * four bytes an item, and no input can make building it slower than n log n
 * comparisons (a hash table's worst case could be written into a file).
 * Internal to the GGUF reader.
 */
#ifndef TERN_ENGINE_GGUF_INDEX_H
#define TERN_ENGINE_GGUF_INDEX_H

#include "engine/gguf.h"

struct gguf_index {
    const void *items; /* the owner's; each begins with its struct gguf_string name */
    size_t stride_bytes;
    uint32_t *order; /* the owner's; `count` item numbers */
    uint32_t count;
};

/* Fills `order` with 0..count-1 by name. */
void gguf_index_build(struct gguf_index *index);

/* The later of two items of one name, or `count` when names are unique. After build. */
uint32_t gguf_index_duplicate(const struct gguf_index *index);

/* The item of that name, or `count` when there is none. */
uint32_t gguf_index_find(const struct gguf_index *index, const char *name, size_t len);

/* In place and without allocation, where libc's qsort may allocate. */
void gguf_index_sort(uint32_t *order, uint32_t count,
                     int (*is_less)(const void *context, uint32_t a, uint32_t b),
                     const void *context);

#endif
