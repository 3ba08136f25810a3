/*
 * Host memory under one cap: images of heads, and requests that are set aside.
 * What is given back is kept for the next who takes as much, since heads come
 * in few sizes and fresh memory costs more than a copy into it: the system
 * clears every page. What is kept counts towards the cap and goes when another
 * size needs the room.
 *
 * Not locked; the store's lock covers every call.
 */
#ifndef TERN_STORE_HOST_ACCOUNT_H
#define TERN_STORE_HOST_ACCOUNT_H

#include "base/err.h"

enum { HOST_ACCOUNT_SIZES = 2 }; /* that are kept: a KV block's and a state's */

/* Pieces of one size that nobody uses, chained through their first bytes. */
struct host_spares {
    size_t bytes;
    void *first;
};

struct host_account {
    size_t used_bytes;
    size_t max_bytes;
    size_t spare_bytes;
    struct host_spares spares[HOST_ACCOUNT_SIZES];
};

void host_account_init(struct host_account *account, size_t max_bytes, size_t block_bytes,
                       size_t slot_bytes);

/* Memory of undefined contents, which may be those of another head: the taker overwrites it all.
 * ERR_FULL when the cap would be passed, ERR_NOMEM. */
MUST_USE enum err host_account_take(struct host_account *account, size_t bytes, void **out);

/* BYTES as they were taken. NULL is allowed and gives nothing back. */
void host_account_give(struct host_account *account, void *memory, size_t bytes);

/* Fresh memory that the account does not know of yet, all of it written once. NULL: there is none.
 * Needs no lock. */
void *host_account_warm(size_t bytes);

/* Keeps MEMORY of host_account_warm for who takes BYTES; frees it where the cap leaves no room, or
 * nobody takes that size. */
void host_account_add(struct host_account *account, void *memory, size_t bytes);

/* Frees what is kept. Everything was given back. */
void host_account_done(struct host_account *account);

#endif
