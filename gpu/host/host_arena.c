#include "gpu/host/host_arena.h"

#include "gpu/host/host_pages.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE_BYTES = 4096 };

/* Address space of one mapping; memory is used only where it is written. */
#define MAPPING_BYTES ((size_t)256 << 20)

struct mapping {
    struct mapping *next;
    uint8_t *memory;
    size_t bytes;
    size_t used_bytes; /* handed out so far, from the start on; nothing is handed out twice */
    size_t live_bytes;
};

struct host_arena {
    struct mapping *mappings; /* the latest first */
};

enum err host_arena_create(struct host_arena **out) {
    struct host_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL) {
        return err_fail(ERR_NOMEM, "arena of weights");
    }
    *out = arena;
    return ERR_OK;
}

void host_arena_destroy(struct host_arena *arena) {
    if (arena != NULL) {
        assert(arena->mappings == NULL);
        free(arena);
    }
}

size_t host_arena_rounded_bytes(size_t bytes) {
    return (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

static enum err add_mapping(struct host_arena *arena, size_t bytes) {
    struct mapping *mapping = calloc(1, sizeof *mapping);
    if (mapping == NULL) {
        return err_fail(ERR_NOMEM, "mapping of %zu bytes", bytes);
    }
    void *memory;
    enum err err = host_pages_map(bytes, &memory);
    if (err != ERR_OK) {
        free(mapping);
        return err;
    }
    *mapping = (struct mapping){.next = arena->mappings, .memory = memory, .bytes = bytes};
    arena->mappings = mapping;
    return ERR_OK;
}

enum err host_arena_take(struct host_arena *arena, size_t bytes, void **out) {
    if (bytes == 0 || bytes > SIZE_MAX / 2) {
        return err_fail(ERR_NOMEM, "%zu bytes for a weight", bytes);
    }
    size_t rounded = host_arena_rounded_bytes(bytes);
    struct mapping *mapping = arena->mappings;
    if (mapping == NULL || mapping->bytes - mapping->used_bytes < rounded) {
        TRY(add_mapping(arena, rounded > MAPPING_BYTES ? rounded : MAPPING_BYTES));
        mapping = arena->mappings;
    }
    *out = mapping->memory + mapping->used_bytes;
    mapping->used_bytes += rounded;
    mapping->live_bytes += rounded;
    return ERR_OK;
}

void host_arena_give(struct host_arena *arena, void *memory, size_t bytes) {
    size_t rounded = host_arena_rounded_bytes(bytes);
    struct mapping **link = &arena->mappings;
    while ((uintptr_t)memory - (uintptr_t)(*link)->memory >= (*link)->bytes) {
        link = &(*link)->next;
        assert(*link != NULL);
    }
    struct mapping *mapping = *link;
    mapping->live_bytes -= rounded;
    if (mapping->live_bytes > 0) {
        /* The address space stays taken; a refusal only keeps memory longer. */
        (void)madvise(memory, rounded, MADV_DONTNEED);
        return;
    }
    *link = mapping->next;
    host_pages_unmap(mapping->memory, mapping->bytes);
    free(mapping);
}
