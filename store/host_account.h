/*
 * Host memory under one cap: images of heads, and requests that are set aside.
 * Not locked; the store's lock covers every call.
 */
#ifndef TERN_STORE_HOST_ACCOUNT_H
#define TERN_STORE_HOST_ACCOUNT_H

#include "base/err.h"

struct host_account {
    size_t used_bytes;
    size_t max_bytes;
};

/* Zeroed memory. ERR_FULL when the cap would be passed, ERR_NOMEM. */
MUST_USE enum err host_account_take(struct host_account *account, size_t bytes, void **out);

/* BYTES as they were taken. NULL is allowed and gives nothing back. */
void host_account_give(struct host_account *account, void *memory, size_t bytes);

#endif
