/*
 * The LMDB environment of model state, and the only place that knows LMDB: opening, transactions,
 * access by key, cursors, and how many pages are free. It keeps bytes and knows no record.
 *
 * Any thread may read, each in transactions of its own that live within one function; one thread
 * writes. A process opens an environment at most once, and doesn't use it after fork. Values that
 * a read returns are valid until the transaction ends, in a write transaction until the next
 * write.
 */
#ifndef TERN_STORE_STATE_ENV_H
#define TERN_STORE_STATE_ENV_H

#include "base/err.h"

enum state_db {
    STATE_META,       /* the format record */
    STATE_HEADS,      /* head records */
    STATE_LINEAGES,   /* lineage records */
    STATE_LINKS,      /* owner and child keys, without values */
    STATE_OBJECTS,    /* runs */
    STATE_GARBAGE,    /* what is to be removed */
    STATE_QUARANTINE, /* heads that failed a check */
};

enum { STATE_DB_COUNT = STATE_QUARANTINE + 1 };
enum { STATE_ENV_PAGE_BYTES = 4096 };

struct state_env;
struct state_txn;
struct state_cursor;

struct state_bytes {
    const void *data;
    size_t len;
};

struct state_env_config {
    const char *dir;  /* exists */
    size_t map_bytes; /* the data file never grows past it; ignored when read-only */
    int is_read_only;
};

/* Creates data.mdb and lock.mdb with mode 0600 and the databases, unless read-only. Read-only, a
 * missing database is as if it were empty, and a missing file is ERR_NOT_FOUND. ERR_UNSUPPORTED if
 * its pages are not STATE_ENV_PAGE_BYTES. */
MUST_USE enum err state_env_open(const struct state_env_config *config, struct state_env **out);
void state_env_close(struct state_env *env);

/* Paths of the two files of an environment in DIR. */
enum { STATE_ENV_PATH_BYTES = 4096 };
MUST_USE enum err state_env_data_path(const char *dir, char out[STATE_ENV_PATH_BYTES]);

/* --- transactions ---------------------------------------------------------------------- */

MUST_USE enum err state_env_begin_read(struct state_env *env, struct state_txn **out);
MUST_USE enum err state_env_begin_write(struct state_env *env, struct state_txn **out);

/* Ends the transaction in any case. Once it returns ERR_OK the writes survive power loss. */
MUST_USE enum err state_env_commit(struct state_txn *txn);
void state_env_abort(struct state_txn *txn); /* accepts NULL */
uint64_t state_env_txn_id(const struct state_txn *txn);

/* --- access by key: ERR_NOT_FOUND, ERR_FULL (no page left), ERR_IO, ERR_CORRUPT ---------- */

MUST_USE enum err state_env_get(struct state_txn *txn, enum state_db db, struct state_bytes key,
                                struct state_bytes *value);
MUST_USE enum err state_env_put(struct state_txn *txn, enum state_db db, struct state_bytes key,
                                struct state_bytes value);

/* Makes room for LEN bytes under KEY; the caller fills *out before the next call. */
MUST_USE enum err state_env_reserve(struct state_txn *txn, enum state_db db, struct state_bytes key,
                                    size_t len, uint8_t **out);

/* Removing what isn't there is ERR_OK. */
MUST_USE enum err state_env_remove(struct state_txn *txn, enum state_db db, struct state_bytes key);
MUST_USE enum err state_env_count(struct state_txn *txn, enum state_db db, uint64_t *out);

/* Asks the system to read the pages of VALUE ahead. */
void state_env_will_need(struct state_bytes value);

/* --- cursors: ERR_NOT_FOUND past either end --------------------------------------------- */

/* Closed before its transaction ends. */
MUST_USE enum err state_env_cursor_open(struct state_txn *txn, enum state_db db,
                                        struct state_cursor **out);
void state_env_cursor_close(struct state_cursor *cursor); /* accepts NULL */

/* The first entry at or behind KEY. */
MUST_USE enum err state_env_seek(struct state_cursor *cursor, struct state_bytes key,
                                 struct state_bytes *key_out, struct state_bytes *value_out);

/* The last entry before KEY. */
MUST_USE enum err state_env_seek_before(struct state_cursor *cursor, struct state_bytes key,
                                        struct state_bytes *key_out, struct state_bytes *value_out);
MUST_USE enum err state_env_first(struct state_cursor *cursor, struct state_bytes *key_out,
                                  struct state_bytes *value_out);
MUST_USE enum err state_env_next(struct state_cursor *cursor, struct state_bytes *key_out,
                                 struct state_bytes *value_out);

/* Removes the entry under the cursor; state_env_next then returns the one behind it. */
MUST_USE enum err state_env_remove_at(struct state_cursor *cursor);

/* --- pages and readers ------------------------------------------------------------------ */

struct state_env_usage {
    uint64_t map_pages;   /* the most there can be */
    uint64_t file_pages;  /* handed out once: what the data file holds */
    uint64_t free_pages;  /* of those, free */
    uint64_t ready_pages; /* of the free ones, those that the next write may use */
};
MUST_USE enum err state_env_usage(struct state_env *env, struct state_env_usage *out);

/* Frees the slots of readers whose process is gone. */
MUST_USE enum err state_env_clear_readers(struct state_env *env, int *cleared_out);

/* The live reader with the oldest transaction; *pid_out is 0 if there is none. */
MUST_USE enum err state_env_oldest_reader(struct state_env *env, int *pid_out,
                                          uint64_t *txn_id_out);

/* Writes a copy without free pages to PATH, which must not exist, with mode 0600, and syncs it. */
MUST_USE enum err state_env_copy_compact(struct state_env *env, const char *path);

/* Sends the next write transaction a page list that is one transaction older: commits a
 * transaction that changes nothing but a counter. */
MUST_USE enum err state_env_tick(struct state_env *env);

#endif
