#include "store/host_account.h"

#include <stdlib.h>

enum err host_account_take(struct host_account *account, size_t bytes, void **out) {
    if (bytes > account->max_bytes || account->used_bytes > account->max_bytes - bytes) {
        return err_fail(ERR_FULL, "%zu bytes of host memory: %zu of %zu are in use", bytes,
                        account->used_bytes, account->max_bytes);
    }
    void *memory = calloc(1, bytes > 0 ? bytes : 1);
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
    free(memory);
}
