/*
 * The ledger's LMDB environment: the only file that knows lmdb.h. Tables, transactions, and the
 * page counts from which free room is computed. LMDB's default sync; never NOSYNC, never
 * WRITEMAP, so a commit that returned ERR_OK is on stable storage.
 *
 * An environment is opened at most once per process and not used after fork. Any thread may
 * read; one thread at a time writes. A transaction begins and ends in one function and in one
 * thread. Bytes handed out lie in the map: valid until the transaction ends or, in a write
 * transaction, until its next write.
 */
#ifndef TERN_LEDGER_LEDGER_DB_H
#define TERN_LEDGER_LEDGER_DB_H

#include "base/err.h"

struct ledger_db;

enum ledger_db_table {
    LEDGER_DB_MARK,
    LEDGER_DB_CONVERSATION,
    LEDGER_DB_TURN,
    LEDGER_DB_IDEMPOTENCY,
    LEDGER_DB_EXPIRY,
    LEDGER_DB_TOMBSTONE,
    LEDGER_DB_TABLE_COUNT,
};

enum { LEDGER_DB_KEY_BYTES_MAX = 511 };

struct ledger_db_bytes {
    const uint8_t *data;
    size_t len;
};

/* Embedded; zero it, and let CLEANUP(ledger_db_abort) end it on every path. */
struct ledger_db_txn {
    struct ledger_db *db;
    void *handle; /* NULL when it has ended */
    int is_writing;
};

struct ledger_db_params {
    const char *directory;
    uint64_t map_bytes; /* never grows past it, but for reserve_pages to delete with; not read if
                           read-only */
    uint64_t allocate_bytes; /* of the file, ahead; at most map_bytes */
    uint64_t reserve_pages;  /* that a map already full at open is enlarged by */
    int is_read_only;
    /*
     * Runs in the transaction that opens the tables, before anything is changed: checks or writes
     * the mark. What it returns other than ERR_OK undoes all and is returned by ledger_db_open.
     */
    enum err (*first)(void *context, struct ledger_db_txn *txn);
    void *context;
};

/* DIRECTORY must exist. Files are made with mode 0600, and the directory is synced. */
MUST_USE enum err ledger_db_open(const struct ledger_db_params *params, struct ledger_db **out);
void ledger_db_close(struct ledger_db *db); /* accepts NULL */

MUST_USE enum err ledger_db_begin(struct ledger_db *db, int is_writing, struct ledger_db_txn *out);
/*
 * ERR_FULL or ERR_NOMEM: nothing was written, and the next transaction may succeed. ERR_IO: the
 * disk failed; whether the transaction is durable is unknown, and the environment must not be
 * written any more. The transaction has ended in every case.
 */
MUST_USE enum err ledger_db_commit(struct ledger_db_txn *txn);
void ledger_db_abort(struct ledger_db_txn *txn); /* nothing if it has ended */

/* After a write that failed, the transaction can only be aborted. */
MUST_USE enum err ledger_db_get(struct ledger_db_txn *txn, enum ledger_db_table table,
                                const void *key, size_t key_len, struct ledger_db_bytes *value);
MUST_USE enum err ledger_db_put(struct ledger_db_txn *txn, enum ledger_db_table table,
                                const void *key, size_t key_len, const void *value,
                                size_t value_len);
/* ERR_NOT_FOUND if there is no such key; the transaction goes on. */
MUST_USE enum err ledger_db_remove(struct ledger_db_txn *txn, enum ledger_db_table table,
                                   const void *key, size_t key_len);
/* The first entry whose key is not below FROM; ERR_NOT_FOUND behind the last. VALUE may be NULL. */
MUST_USE enum err ledger_db_seek(struct ledger_db_txn *txn, enum ledger_db_table table,
                                 const void *from, size_t from_len, struct ledger_db_bytes *key,
                                 struct ledger_db_bytes *value);
MUST_USE enum err ledger_db_count(struct ledger_db_txn *txn, enum ledger_db_table table,
                                  uint64_t *out);

struct ledger_db_space {
    uint32_t page_bytes;
    uint64_t map_pages;       /* that were asked for */
    uint64_t used_pages;      /* from the file's begin to the last page ever used */
    uint64_t allocated_pages; /* by ledger_db_allocate, from the file's begin */
    uint64_t free_pages;      /* of those, in the free list */
    uint64_t ready_pages; /* of the free ones, those that the next write may use without readers */
};

/* Walks the free list: costs a page for each transaction whose freed pages are not reused yet. */
MUST_USE enum err ledger_db_space(struct ledger_db *db, struct ledger_db_space *out);

/*
 * Allocates the file up to PAGES_MORE pages behind the last used one, so that a commit never finds
 * the disk full. For the writing thread, between transactions. ERR_FULL if the disk has no room.
 */
MUST_USE enum err ledger_db_allocate(struct ledger_db *db, uint64_t pages_more);

/* Clears reader slots of processes that died; *dead gets their number. */
MUST_USE enum err ledger_db_readers_check(struct ledger_db *db, int *dead);

#endif
