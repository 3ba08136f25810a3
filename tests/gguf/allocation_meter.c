#include "tests/gguf/allocation_meter.h"

#include <malloc.h>
#include <stdatomic.h>

/* The linker's names: __real_x is the library's x, and calls of x arrive at __wrap_x. */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *old);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __wrap_free(void *old);

static atomic_ptrdiff_t held;
static atomic_ptrdiff_t peak;
static atomic_size_t until_failure; /* 0: none fails */

/* Counts one allocation down; true for the one that is to fail. */
static int is_failing(void) {
    size_t left = atomic_load(&until_failure);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&until_failure, &left, left - 1)) {
            return left == 1;
        }
    }
    return 0;
}

static void add(ptrdiff_t bytes) {
    ptrdiff_t now = atomic_fetch_add(&held, bytes) + bytes;
    ptrdiff_t before = atomic_load(&peak);
    while (now > before && !atomic_compare_exchange_weak(&peak, &before, now)) {
    }
}

/* By the size the allocator really gave, since that is what can be asked again on free. */
static ptrdiff_t size_of(void *block) {
    return block == NULL ? 0 : (ptrdiff_t)malloc_usable_size(block);
}

void *__wrap_malloc(size_t bytes) {
    void *block = is_failing() ? NULL : __real_malloc(bytes);
    add(size_of(block));
    return block;
}

void *__wrap_calloc(size_t count, size_t bytes) {
    void *block = is_failing() ? NULL : __real_calloc(count, bytes);
    add(size_of(block));
    return block;
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    void *block = is_failing() ? NULL : __real_aligned_alloc(alignment, bytes);
    add(size_of(block));
    return block;
}

void *__wrap_realloc(void *old, size_t bytes) {
    ptrdiff_t before = size_of(old);
    void *block = is_failing() ? NULL : __real_realloc(old, bytes);
    if (block != NULL) {
        add(size_of(block)); /* both at once: the allocator may copy */
        add(-before);
    }
    return block;
}

void __wrap_free(void *old) {
    add(-size_of(old));
    __real_free(old);
}

void allocation_meter_start(void) {
    atomic_store(&held, 0);
    atomic_store(&peak, 0);
}

size_t allocation_meter_peak_bytes(void) {
    return (size_t)atomic_load(&peak);
}

ptrdiff_t allocation_meter_held_bytes(void) {
    return atomic_load(&held);
}

void allocation_meter_fail_at(size_t number) {
    atomic_store(&until_failure, number);
}
