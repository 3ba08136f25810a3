#include "gpu/host/host_pages.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* Maps BYTES so that they begin on a huge page, and gives back what lies around them. */
static void *map_aligned(size_t bytes) {
    size_t page_bytes = 4096;
    size_t kept = (bytes + page_bytes - 1) / page_bytes * page_bytes;
    size_t mapped = kept + HUGE_BYTES;
    uint8_t *memory =
        mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    size_t before = (HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES) % HUGE_BYTES;
    size_t after = mapped - before - kept;
    if (before > 0) {
        munmap(memory, before);
    }
    if (after > 0) {
        munmap(memory + before + kept, after);
    }
    /* A system without huge pages refuses, which costs speed alone. */
    madvise(memory + before, kept, MADV_HUGEPAGE);
    return memory + before;
}

enum err host_pages_map(size_t bytes, void **out) {
    void *memory;
    if (bytes > SIZE_MAX / 2) {
        return err_fail(ERR_NOMEM, "%zu bytes of memory", bytes);
    }
    if (bytes >= HUGE_BYTES) {
        memory = map_aligned(bytes);
    } else {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memory = memory == MAP_FAILED ? NULL : memory;
    }
    if (memory == NULL) {
        return err_fail(ERR_NOMEM, "%zu bytes of memory: %s", bytes, strerror(errno));
    }
    *out = memory;
    return ERR_OK;
}

void host_pages_warm(void *memory, size_t bytes) {
#ifdef MADV_POPULATE_WRITE
    const uintptr_t page_bytes = 4096;
    uintptr_t begin = ((uintptr_t)memory + page_bytes - 1) / page_bytes * page_bytes;
    uintptr_t end = ((uintptr_t)memory + bytes) / page_bytes * page_bytes;
    if (end > begin) {
        madvise((uint8_t *)memory + (begin - (uintptr_t)memory), end - begin, MADV_POPULATE_WRITE);
    }
#else
    (void)memory;
    (void)bytes;
#endif
}

void host_pages_unmap(void *memory, size_t bytes) {
    if (memory != NULL) {
        munmap(memory, bytes);
    }
}
