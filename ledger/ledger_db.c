/*
 * I1. Only ERR_IO of a commit leaves an unknown outcome: all errors of begin, get, put and remove
 *     are met before LMDB writes a byte of the transaction where a reader could find it.
 * I2. The file is allocated past every page that a commit may use (ledger_db_allocate before the
 *     transaction), so that a full disk shows before the commit, not as its failure.
 *
 * Each LMDB call that can fail stands beside a fault point of its name.
 */
#include "ledger/ledger_db.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    READERS_MAX = 256,
    ALLOCATION_STEP_BYTES = 4 << 20,
};

static const char *const table_names[LEDGER_DB_TABLE_COUNT] = {
    [LEDGER_DB_MARK] = "mark",
    [LEDGER_DB_CONVERSATION] = "conversation",
    [LEDGER_DB_TURN] = "turn",
    [LEDGER_DB_IDEMPOTENCY] = "idempotency",
    [LEDGER_DB_EXPIRY] = "idempotency_expiry",
    [LEDGER_DB_TOMBSTONE] = "tombstone",
};

struct ledger_db {
    MDB_env *env;
    MDB_dbi tables[LEDGER_DB_TABLE_COUNT];
    uint32_t page_bytes;
    uint64_t map_bytes;
    _Atomic uint64_t allocated_bytes; /* of the file; set by the writing thread */
    int is_read_only;
};

static enum err fail(int result, const char *call) {
    enum err code = ERR_IO;
    switch (result) {
    case MDB_NOTFOUND:
    case ENOENT:
        code = ERR_NOT_FOUND;
        break;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
        code = ERR_FULL;
        break;
    case MDB_READERS_FULL:
        code = ERR_BUSY;
        break;
    case ENOMEM:
        code = ERR_NOMEM;
        break;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        code = ERR_CORRUPT;
        break;
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        code = ERR_FORMAT;
        break;
    default:
        break;
    }
    return err_fail(code, "ledger: %s: %s", call, mdb_strerror(result));
}

static MDB_txn *txn_handle(const struct ledger_db_txn *txn) {
    assert(txn->handle != NULL);
    return txn->handle;
}

/* Opening */

static enum err open_env(struct ledger_db *db, const struct ledger_db_params *params) {
    int result = fault_fails("ledger.mdb_env_create") ? ENOMEM : mdb_env_create(&db->env);
    if (result != 0) {
        return fail(result, "mdb_env_create");
    }
    if (!params->is_read_only) { /* else the size that the file says, which the writer has set */
        uint64_t os_page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
        db->map_bytes = params->map_bytes / os_page_bytes * os_page_bytes;
        result = mdb_env_set_mapsize(db->env, (size_t)db->map_bytes);
    }
    if (result == 0) {
        result = mdb_env_set_maxdbs(db->env, LEDGER_DB_TABLE_COUNT);
    }
    if (result == 0) {
        result = mdb_env_set_maxreaders(db->env, READERS_MAX);
    }
    if (result != 0) {
        return fail(result, "mdb_env_set");
    }
    /* NOTLS: a reader slot belongs to a transaction, not to each thread that ever read. */
    unsigned flags = MDB_NOTLS | (params->is_read_only ? MDB_RDONLY : 0u);
    result = fault_fails("ledger.mdb_env_open")
                 ? EIO
                 : mdb_env_open(db->env, params->directory, flags, 0600);
    if (result != 0) {
        return err_context(fail(result, "mdb_env_open"), "%s", params->directory);
    }
    return ERR_OK;
}

/* A ledger that fills its map could not even delete; it gets room to, past what was asked for. */
static enum err enlarge_full_map(struct ledger_db *db, uint64_t reserve_pages) {
    MDB_envinfo info;
    MDB_stat stat;
    int result = mdb_env_info(db->env, &info);
    if (result == 0) {
        result = mdb_env_stat(db->env, &stat);
    }
    if (result != 0) {
        return fail(result, "mdb_env_info");
    }
    db->page_bytes = stat.ms_psize;
    db->map_bytes = db->is_read_only ? info.me_mapsize : db->map_bytes;
    uint64_t needed_bytes = (info.me_last_pgno + 1 + reserve_pages) * stat.ms_psize;
    if (!db->is_read_only && needed_bytes > info.me_mapsize) {
        result = mdb_env_set_mapsize(db->env, (size_t)needed_bytes);
    }
    return result == 0 ? ERR_OK : fail(result, "mdb_env_set_mapsize");
}

static enum err open_tables(struct ledger_db *db, struct ledger_db_txn *txn) {
    for (int i = 0; i < LEDGER_DB_TABLE_COUNT; i++) {
        int result = fault_fails("ledger.mdb_dbi_open")
                         ? MDB_MAP_FULL
                         : mdb_dbi_open(txn_handle(txn), table_names[i],
                                        db->is_read_only ? 0u : MDB_CREATE, &db->tables[i]);
        if (result == MDB_NOTFOUND) {
            return err_fail(ERR_FORMAT, "ledger has no table '%s'", table_names[i]);
        }
        if (result != 0) {
            return fail(result, "mdb_dbi_open");
        }
    }
    return ERR_OK;
}

static enum err sync_directory(const char *directory) {
    int fd = fault_fails("ledger.directory_open") ? (errno = EIO, -1)
                                                  : open(directory, O_RDONLY | O_DIRECTORY);
    int is_synced = fd >= 0 && !fault_fails("ledger.directory_sync") && fsync(fd) == 0;
    int cause = errno;
    if (fd >= 0) {
        close(fd);
    }
    return is_synced ? ERR_OK
                     : err_fail(ERR_IO, "%s cannot be synced: %s", directory, strerror(cause));
}

static enum err prepare(struct ledger_db *db, const struct ledger_db_params *params) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(db, !params->is_read_only, &txn));
    TRY(open_tables(db, &txn));
    TRY(params->first(params->context, &txn));
    return ledger_db_commit(&txn);
}

static enum err allocate_to(struct ledger_db *db, uint64_t bytes) {
    if (bytes <= db->allocated_bytes) {
        return ERR_OK;
    }
    mdb_filehandle_t fd;
    int result = mdb_env_get_fd(db->env, &fd);
    if (result == 0) {
        result = fault_fails("ledger.allocate") ? ENOSPC : posix_fallocate(fd, 0, (off_t)bytes);
    }
    if (result != 0) {
        return err_fail(result == ENOSPC || result == EDQUOT || result == EFBIG ? ERR_FULL : ERR_IO,
                        "ledger cannot be given %llu bytes: %s", (unsigned long long)bytes,
                        strerror(result));
    }
    db->allocated_bytes = bytes;
    return ERR_OK;
}

static enum err check_params(const struct ledger_db_params *params) {
    if (params->is_read_only) {
        return ERR_OK;
    }
    if (params->map_bytes < (uint64_t)1 << 20 || params->map_bytes > (uint64_t)1 << 46 ||
        params->allocate_bytes > params->map_bytes) {
        return err_fail(ERR_INVALID, "ledger of %llu bytes, %llu allocated ahead; 1 MiB at least",
                        (unsigned long long)params->map_bytes,
                        (unsigned long long)params->allocate_bytes);
    }
    return ERR_OK;
}

enum err ledger_db_open(const struct ledger_db_params *params, struct ledger_db **out) {
    TRY(check_params(params));
    struct ledger_db *db = fault_fails("ledger.alloc") ? NULL : calloc(1, sizeof *db);
    if (db == NULL) {
        return err_fail(ERR_NOMEM, "ledger environment");
    }
    db->is_read_only = params->is_read_only;
    enum err code = open_env(db, params);
    if (code == ERR_OK) {
        code = enlarge_full_map(db, params->reserve_pages);
    }
    if (code == ERR_OK && !params->is_read_only) {
        code = allocate_to(db, params->allocate_bytes);
    }
    if (code == ERR_OK) {
        code = prepare(db, params);
    }
    if (code == ERR_OK && !params->is_read_only) {
        code = sync_directory(params->directory);
    }
    if (code != ERR_OK) {
        ledger_db_close(db);
        return code;
    }
    *out = db;
    return ERR_OK;
}

void ledger_db_close(struct ledger_db *db) {
    if (db == NULL) {
        return;
    }
    if (db->env != NULL) {
        mdb_env_close(db->env);
    }
    free(db);
}

/* Transactions */

enum err ledger_db_begin(struct ledger_db *db, int is_writing, struct ledger_db_txn *out) {
    assert(!is_writing || !db->is_read_only);
    MDB_txn *handle = NULL;
    int result = fault_fails(is_writing ? "ledger.mdb_txn_begin" : "ledger.mdb_txn_begin.read")
                     ? ENOMEM
                     : mdb_txn_begin(db->env, NULL, is_writing ? 0u : MDB_RDONLY, &handle);
    if (result != 0) {
        return fail(result, "mdb_txn_begin");
    }
    *out = (struct ledger_db_txn){.db = db, .handle = handle, .is_writing = is_writing};
    return ERR_OK;
}

enum err ledger_db_commit(struct ledger_db_txn *txn) {
    MDB_txn *handle = txn_handle(txn);
    int is_full = txn->is_writing && fault_fails("ledger.mdb_txn_commit.full");
    int is_refused = txn->is_writing && fault_fails("ledger.mdb_txn_commit");
    txn->handle = NULL;
    if (is_full || is_refused) {
        mdb_txn_abort(handle);
        return fail(is_full ? MDB_MAP_FULL : EIO, "mdb_txn_commit");
    }
    int result = mdb_txn_commit(handle);
    if (result == 0 && txn->is_writing && fault_fails("ledger.sync.late")) {
        result = EIO; /* as when the sync of a written meta page reports an error */
    }
    if (result == 0) {
        return ERR_OK;
    }
    enum err code = fail(result, "mdb_txn_commit");
    return code == ERR_FULL || code == ERR_NOMEM ? code : err_context(ERR_IO, "commit");
}

void ledger_db_abort(struct ledger_db_txn *txn) {
    if (txn->handle != NULL) {
        mdb_txn_abort(txn->handle);
        txn->handle = NULL;
    }
}

static MDB_val val_of(const void *bytes, size_t len) {
    union {
        const void *constant;
        void *plain; /* LMDB's struct has no const, and does not write through it */
    } pointer = {.constant = bytes};
    return (MDB_val){.mv_size = len, .mv_data = pointer.plain};
}

enum err ledger_db_get(struct ledger_db_txn *txn, enum ledger_db_table table, const void *key,
                       size_t key_len, struct ledger_db_bytes *value) {
    MDB_val found;
    MDB_val wanted = val_of(key, key_len);
    int result = fault_fails("ledger.mdb_get")
                     ? MDB_CORRUPTED
                     : mdb_get(txn_handle(txn), txn->db->tables[table], &wanted, &found);
    if (result != 0) {
        return fail(result, "mdb_get");
    }
    *value = (struct ledger_db_bytes){found.mv_data, found.mv_size};
    return ERR_OK;
}

enum err ledger_db_put(struct ledger_db_txn *txn, enum ledger_db_table table, const void *key,
                       size_t key_len, const void *value, size_t value_len) {
    assert(key_len > 0 && key_len <= LEDGER_DB_KEY_BYTES_MAX);
    MDB_val wanted = val_of(key, key_len);
    MDB_val content = val_of(value, value_len);
    int result = fault_fails("ledger.mdb_put")
                     ? MDB_MAP_FULL
                     : mdb_put(txn_handle(txn), txn->db->tables[table], &wanted, &content, 0);
    return result == 0 ? ERR_OK : fail(result, "mdb_put");
}

enum err ledger_db_remove(struct ledger_db_txn *txn, enum ledger_db_table table, const void *key,
                          size_t key_len) {
    MDB_val wanted = val_of(key, key_len);
    int result = fault_fails("ledger.mdb_del")
                     ? MDB_MAP_FULL
                     : mdb_del(txn_handle(txn), txn->db->tables[table], &wanted, NULL);
    return result == 0 ? ERR_OK : fail(result, "mdb_del");
}

enum err ledger_db_seek(struct ledger_db_txn *txn, enum ledger_db_table table, const void *from,
                        size_t from_len, struct ledger_db_bytes *key,
                        struct ledger_db_bytes *value) {
    MDB_cursor *cursor;
    MDB_val found;
    MDB_val wanted = val_of(from, from_len);
    int result = fault_fails("ledger.mdb_cursor_open")
                     ? ENOMEM
                     : mdb_cursor_open(txn_handle(txn), txn->db->tables[table], &cursor);
    if (result != 0) {
        return fail(result, "mdb_cursor_open");
    }
    result =
        fault_fails("ledger.mdb_cursor_get")
            ? MDB_CORRUPTED
            : mdb_cursor_get(cursor, &wanted, &found, from_len > 0 ? MDB_SET_RANGE : MDB_FIRST);
    mdb_cursor_close(cursor);
    if (result != 0) {
        return fail(result, "mdb_cursor_get");
    }
    *key = (struct ledger_db_bytes){wanted.mv_data, wanted.mv_size};
    if (value != NULL) {
        *value = (struct ledger_db_bytes){found.mv_data, found.mv_size};
    }
    return ERR_OK;
}

enum err ledger_db_count(struct ledger_db_txn *txn, enum ledger_db_table table, uint64_t *out) {
    MDB_stat stat;
    int result = mdb_stat(txn_handle(txn), txn->db->tables[table], &stat);
    if (result != 0) {
        return fail(result, "mdb_stat");
    }
    *out = stat.ms_entries;
    return ERR_OK;
}

/* Space */

/*
 * Sums the free list: records of LMDB's database 0, keyed by the transaction that freed the pages,
 * each a count followed by page numbers. What transaction n freed, n+2 may use.
 */
static enum err sum_free_list(MDB_txn *txn, uint64_t last_txn, struct ledger_db_space *space) {
    MDB_cursor *cursor;
    MDB_val key;
    MDB_val value;
    int result = fault_fails("ledger.mdb_cursor_open") ? ENOMEM : mdb_cursor_open(txn, 0, &cursor);
    if (result != 0) {
        return fail(result, "mdb_cursor_open");
    }
    while ((result = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t freed_by;
        size_t count;
        if (key.mv_size != sizeof freed_by || value.mv_size < sizeof count) {
            result = MDB_CORRUPTED;
            break;
        }
        memcpy(&freed_by, key.mv_data, sizeof freed_by);
        memcpy(&count, value.mv_data, sizeof count);
        space->free_pages += count;
        space->ready_pages += freed_by < last_txn ? count : 0;
    }
    mdb_cursor_close(cursor);
    return result == MDB_NOTFOUND ? ERR_OK : fail(result, "free list");
}

enum err ledger_db_space(struct ledger_db *db, struct ledger_db_space *out) {
    struct ledger_db_txn txn CLEANUP(ledger_db_abort) = {0};
    TRY(ledger_db_begin(db, 0, &txn));
    MDB_envinfo info;
    int result = mdb_env_info(db->env, &info);
    if (result != 0) {
        return fail(result, "mdb_env_info");
    }
    struct ledger_db_space space = {
        .page_bytes = db->page_bytes,
        .map_pages = db->map_bytes / db->page_bytes,
        .used_pages = info.me_last_pgno + 1,
        .allocated_pages = db->allocated_bytes / db->page_bytes,
    };
    TRY(sum_free_list(txn_handle(&txn), info.me_last_txnid, &space));
    *out = space;
    return ERR_OK;
}

enum err ledger_db_allocate(struct ledger_db *db, uint64_t pages_more) {
    MDB_envinfo info;
    int result = mdb_env_info(db->env, &info);
    if (result != 0) {
        return fail(result, "mdb_env_info");
    }
    uint64_t bytes = (info.me_last_pgno + 1 + pages_more) * db->page_bytes;
    if (bytes <= db->allocated_bytes) {
        return ERR_OK;
    }
    uint64_t rounded =
        (bytes + ALLOCATION_STEP_BYTES - 1) / ALLOCATION_STEP_BYTES * ALLOCATION_STEP_BYTES;
    uint64_t map_bytes = info.me_mapsize;
    return allocate_to(db, rounded < map_bytes ? rounded : map_bytes);
}

enum err ledger_db_readers_check(struct ledger_db *db, int *dead) {
    int count = 0;
    int result = fault_fails("ledger.mdb_reader_check") ? EIO : mdb_reader_check(db->env, &count);
    if (result != 0) {
        return fail(result, "mdb_reader_check");
    }
    *dead = count;
    return ERR_OK;
}
