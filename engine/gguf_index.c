#include "engine/gguf_index.h"

#include <string.h>

static struct gguf_string name_of(const struct gguf_index *index, uint32_t item) {
    struct gguf_string name;
    memcpy(&name, (const char *)index->items + (size_t)item * index->stride_bytes, sizeof name);
    return name;
}

static int compare_names(struct gguf_string a, struct gguf_string b) {
    size_t shorter = a.len < b.len ? a.len : b.len;
    int order = memcmp(a.text, b.text, shorter);
    if (order != 0) {
        return order;
    }
    return (a.len > b.len) - (a.len < b.len);
}

static int name_is_less(const void *context, uint32_t a, uint32_t b) {
    const struct gguf_index *index = context;
    return compare_names(name_of(index, a), name_of(index, b)) < 0;
}

void gguf_index_build(struct gguf_index *index) {
    for (uint32_t i = 0; i < index->count; i++) {
        index->order[i] = i;
    }
    gguf_index_sort(index->order, index->count, name_is_less, index);
}

uint32_t gguf_index_duplicate(const struct gguf_index *index) {
    for (uint32_t i = 1; i < index->count; i++) {
        uint32_t a = index->order[i - 1];
        uint32_t b = index->order[i];
        if (compare_names(name_of(index, a), name_of(index, b)) == 0) {
            return a > b ? a : b;
        }
    }
    return index->count;
}

uint32_t gguf_index_find(const struct gguf_index *index, const char *name, size_t len) {
    struct gguf_string wanted = {name, len};
    uint32_t low = 0;
    uint32_t high = index->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        int order = compare_names(name_of(index, index->order[middle]), wanted);
        if (order == 0) {
            return index->order[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return index->count;
}

/* Moves the item at ROOT down until no child of it is greater: one step of heapsort. */
static void sift_down(uint32_t *order, uint64_t root, uint64_t count,
                      int (*is_less)(const void *context, uint32_t a, uint32_t b),
                      const void *context) {
    for (;;) {
        uint64_t child = 2 * root + 1;
        if (child >= count) {
            return;
        }
        if (child + 1 < count && is_less(context, order[child], order[child + 1])) {
            child++;
        }
        if (!is_less(context, order[root], order[child])) {
            return;
        }
        uint32_t kept = order[root];
        order[root] = order[child];
        order[child] = kept;
        root = child;
    }
}

void gguf_index_sort(uint32_t *order, uint32_t count,
                     int (*is_less)(const void *context, uint32_t a, uint32_t b),
                     const void *context) {
    for (uint64_t root = count / 2; root-- > 0;) {
        sift_down(order, root, count, is_less, context);
    }
    for (uint64_t end = count; end-- > 1;) {
        uint32_t greatest = order[0];
        order[0] = order[end];
        order[end] = greatest;
        sift_down(order, 0, end, is_less, context);
    }
}
