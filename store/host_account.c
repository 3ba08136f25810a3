#include "store/host_account.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

#define HUGE_BYTES ((size_t)2 << 20)

/* --- memory ------------------------------------------------------------------------------ */

/* Large pieces in huge pages where the system has them. */
static void *allocate(size_t bytes) {
    void *memory = NULL;
    if (bytes < HUGE_BYTES) {
        return malloc(bytes > sizeof(void *) ? bytes : sizeof(void *));
    }
    if (posix_memalign(&memory, HUGE_BYTES, bytes) != 0) {
        return NULL;
    }
    madvise(memory, bytes / HUGE_BYTES * HUGE_BYTES,
            MADV_HUGEPAGE); /* refused: costs speed alone */
    return memory;
}

/* --- spares ------------------------------------------------------------------------------ */

/* The chain link lies in the memory itself, which need not be aligned for it. The rest of it is
 * out of bounds until it is taken again. */
static void push(struct host_spares *spares, void *memory) {
    memcpy(memory, &spares->first, sizeof spares->first);
    spares->first = memory;
    ASAN_POISON_MEMORY_REGION(memory, spares->bytes);
}

static void *pop(struct host_spares *spares) {
    void *memory = spares->first;
    ASAN_UNPOISON_MEMORY_REGION(memory, spares->bytes);
    memcpy(&spares->first, memory, sizeof spares->first);
    return memory;
}

/* NULL for a size that is not kept. */
static struct host_spares *find_spares(struct host_account *account, size_t bytes) {
    for (int i = 0; i < HOST_ACCOUNT_SIZES; i++) {
        if (account->spares[i].bytes == bytes && bytes >= sizeof(void *)) {
            return &account->spares[i];
        }
    }
    return NULL;
}

/* Frees spares until BYTES more fit under the cap. */
static void make_room(struct host_account *account, size_t bytes) {
    for (int i = 0; i < HOST_ACCOUNT_SIZES; i++) {
        struct host_spares *spares = &account->spares[i];
        while (spares->first != NULL &&
               account->used_bytes + account->spare_bytes > account->max_bytes - bytes) {
            free(pop(spares));
            account->spare_bytes -= spares->bytes;
        }
    }
}

/* --- the account ------------------------------------------------------------------------- */

void host_account_init(struct host_account *account, size_t max_bytes, size_t block_bytes,
                       size_t slot_bytes) {
    *account = (struct host_account){
        .max_bytes = max_bytes,
        .spares = {{.bytes = block_bytes}, {.bytes = slot_bytes}},
    };
}

enum err host_account_take(struct host_account *account, size_t bytes, void **out) {
    if (bytes > account->max_bytes || account->used_bytes > account->max_bytes - bytes) {
        return err_fail(ERR_FULL, "%zu bytes of host memory: %zu of %zu are in use", bytes,
                        account->used_bytes, account->max_bytes);
    }
    struct host_spares *spares = find_spares(account, bytes);
    void *memory = NULL;
    if (spares != NULL && spares->first != NULL) {
        memory = pop(spares);
        account->spare_bytes -= bytes;
    } else {
        make_room(account, bytes);
        memory = allocate(bytes);
    }
    if (memory == NULL) {
        return err_fail(ERR_NOMEM, "%zu bytes of host memory", bytes);
    }
    account->used_bytes += bytes;
    *out = memory;
    return ERR_OK;
}

void host_account_give(struct host_account *account, void *memory, size_t bytes) {
    if (memory == NULL) {
        return;
    }
    assert(account->used_bytes >= bytes);
    account->used_bytes -= bytes;
    struct host_spares *spares = find_spares(account, bytes);
    if (spares == NULL) {
        free(memory);
        return;
    }
    push(spares, memory);
    account->spare_bytes += bytes;
}

void *host_account_warm(size_t bytes) {
    void *memory = allocate(bytes);
    if (memory != NULL) {
        memset(memory, 0, bytes);
    }
    return memory;
}

void host_account_add(struct host_account *account, void *memory, size_t bytes) {
    size_t held = account->used_bytes + account->spare_bytes;
    struct host_spares *spares = find_spares(account, bytes);
    if (memory == NULL) {
        return;
    }
    if (spares == NULL || held > account->max_bytes || bytes > account->max_bytes - held) {
        free(memory);
        return;
    }
    push(spares, memory);
    account->spare_bytes += bytes;
}

void host_account_done(struct host_account *account) {
    assert(account->used_bytes == 0);
    for (int i = 0; i < HOST_ACCOUNT_SIZES; i++) {
        while (account->spares[i].first != NULL) {
            free(pop(&account->spares[i]));
        }
    }
    account->spare_bytes = 0;
}
