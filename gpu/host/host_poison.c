/*
 * I1. A byte of a buffer is plain exactly while an open hold names a byte of its granule. Both
 *     sides change under `lock`: opening unpoisons, closing poisons what no other hold names.
 * I2. A hold's spans are sorted, rounded to granules, and apart from each other.
 */
#include "gpu/host/host_poison.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <sanitizer/asan_interface.h>

#include "gpu/host/host_memory.h"

enum { GRANULE = 8 };

struct span {
    uintptr_t begin;
    uintptr_t end;
};

struct spans {
    struct span *items;
    size_t count;
    size_t capacity;
};

struct host_poison_hold {
    struct host_poison_hold *next;
    struct spans spans;
};

struct host_poison {
    pthread_mutex_t lock;
    struct host_poison_hold *open;
};

/* A lost span would turn into a false report, so there is no way on without memory. */
static void *must(void *memory) {
    if (memory == NULL) {
        abort();
    }
    return memory;
}

static void append(struct spans *spans, uintptr_t begin, uintptr_t end) {
    if (spans->count == spans->capacity) {
        spans->capacity = spans->capacity ? spans->capacity * 2 : 16;
        spans->items = must(realloc(spans->items, spans->capacity * sizeof *spans->items));
    }
    spans->items[spans->count++] = (struct span){begin, end};
}

static void append_bytes(struct spans *spans, const void *memory, size_t bytes) {
    uintptr_t begin = (uintptr_t)memory;
    if (memory != NULL && bytes > 0) {
        append(spans, begin / GRANULE * GRANULE, (begin + bytes + GRANULE - 1) / GRANULE * GRANULE);
    }
}

static int compare_begin(const void *left, const void *right) {
    const struct span *a = left;
    const struct span *b = right;
    return (a->begin > b->begin) - (a->begin < b->begin);
}

/* Sorts the spans and joins those that meet (I2). */
static void settle(struct spans *spans) {
    if (spans->count == 0) {
        return;
    }
    qsort(spans->items, spans->count, sizeof *spans->items, compare_begin);
    size_t kept = 0;
    for (size_t i = 1; i < spans->count; i++) {
        struct span *last = &spans->items[kept];
        const struct span *item = &spans->items[i];
        if (item->begin <= last->end) {
            last->end = item->end > last->end ? item->end : last->end;
        } else {
            spans->items[++kept] = *item;
        }
    }
    spans->count = kept + 1;
}

static void poison_span(uintptr_t begin, uintptr_t end) {
    if (begin < end) {
        __asan_poison_memory_region((void *)begin, end - begin);
    }
}

/* Poisons what is in OWN and not in OTHERS; both settled. */
static void poison_rest(const struct spans *own, const struct spans *others) {
    size_t other = 0;
    for (size_t i = 0; i < own->count; i++) {
        uintptr_t at = own->items[i].begin;
        uintptr_t end = own->items[i].end;
        while (other < others->count && others->items[other].end <= at) {
            other++;
        }
        for (size_t o = other; o < others->count && others->items[o].begin < end; o++) {
            poison_span(at, others->items[o].begin);
            at = others->items[o].end;
        }
        poison_span(at, end);
    }
}

int host_poison_is_active(void) {
    return 1;
}

enum err host_poison_create(struct host_poison **out) {
    struct host_poison *poison = calloc(1, sizeof *poison);
    if (poison == NULL) {
        return err_fail(ERR_NOMEM, "poison of a device");
    }
    pthread_mutex_init(&poison->lock, NULL);
    *out = poison;
    return ERR_OK;
}

void host_poison_destroy(struct host_poison *poison) {
    if (poison == NULL) {
        return;
    }
    assert(poison->open == NULL);
    pthread_mutex_destroy(&poison->lock);
    free(poison);
}

void host_poison_cover(void *memory, size_t bytes) {
    __asan_poison_memory_region(memory, bytes);
}

void host_poison_uncover(void *memory, size_t bytes) {
    __asan_unpoison_memory_region(memory, bytes);
}

static struct host_poison_hold *open_hold(struct host_poison *poison,
                                          struct host_poison_hold *hold) {
    settle(&hold->spans);
    pthread_mutex_lock(&poison->lock);
    for (size_t i = 0; i < hold->spans.count; i++) {
        const struct span *span = &hold->spans.items[i];
        __asan_unpoison_memory_region((void *)span->begin, span->end - span->begin);
    }
    hold->next = poison->open;
    poison->open = hold;
    pthread_mutex_unlock(&poison->lock);
    return hold;
}

static void append_range(void *context, const struct command_range *range) {
    append_bytes(context, host_memory_at(range->at), range->bytes);
}

struct host_poison_hold *host_poison_open_command(struct host_poison *poison,
                                                  const struct command *command) {
    struct host_poison_hold *hold = must(calloc(1, sizeof *hold));
    enum err err = command_visit_ranges(command, append_range, &hold->spans);
    assert(err == ERR_OK);
    (void)err;
    return open_hold(poison, hold);
}

struct host_poison_hold *host_poison_open_ranges(struct host_poison *poison,
                                                 const struct host_poison_range *ranges,
                                                 size_t count) {
    struct host_poison_hold *hold = must(calloc(1, sizeof *hold));
    for (size_t i = 0; i < count; i++) {
        append_bytes(&hold->spans, ranges[i].memory, ranges[i].bytes);
    }
    return open_hold(poison, hold);
}

void host_poison_close(struct host_poison *poison, struct host_poison_hold *hold) {
    struct spans others = {0};
    pthread_mutex_lock(&poison->lock);
    struct host_poison_hold **link = &poison->open;
    while (*link != NULL) {
        if (*link == hold) {
            *link = hold->next;
            continue;
        }
        const struct spans *spans = &(*link)->spans;
        for (size_t i = 0; i < spans->count; i++) {
            append(&others, spans->items[i].begin, spans->items[i].end);
        }
        link = &(*link)->next;
    }
    settle(&others);
    poison_rest(&hold->spans, &others);
    pthread_mutex_unlock(&poison->lock);
    free(others.items);
    free(hold->spans.items);
    free(hold);
}
