/*
 * I1: the environment is opened with MDB_NOTLS, so a read transaction belongs to its struct, not to
 *     its thread; the writer is one thread.
 * I2: the default sync: a commit that returned is on the disk. Never MDB_NOSYNC, never
 *     MDB_WRITEMAP, whose stray writes would reach the file.
 * I3: all databases have MDB_REVERSEKEY: little-endian keys sort as numbers.
 * I4: the map is as large as the file may become; LMDB never shrinks it and never grows past it.
 */
#include "store/state_env.h"

#include "base/fault.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READERS_MAX = 254, FREE_DBI = 0 };

static const MDB_dbi NO_DBI = (MDB_dbi)-1;

struct state_env {
    MDB_env *mdb;
    MDB_dbi dbi[STATE_DB_COUNT];
};

struct state_txn {
    MDB_txn *mdb;
    struct state_env *env;
};

struct state_cursor {
    MDB_cursor *mdb;
};

static const char *const db_names[STATE_DB_COUNT] = {
    [STATE_META] = "meta",
    [STATE_HEADS] = "heads",
    [STATE_LINEAGES] = "lineages",
    [STATE_LINKS] = "links",
    [STATE_OBJECTS] = "objects",
    [STATE_GARBAGE] = "garbage",
    [STATE_QUARANTINE] = "quarantine",
};

static const char tick_key[] = "tick";

static enum err code_of(int rc) {
    switch (rc) {
    case MDB_NOTFOUND:
        return ERR_NOT_FOUND;
    case MDB_MAP_FULL:
    case ENOSPC:
    case EDQUOT:
        return ERR_FULL;
    case MDB_READERS_FULL:
        return ERR_BUSY;
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
        return ERR_FORMAT;
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_BAD_VALSIZE:
        return ERR_CORRUPT;
    case ENOMEM:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

static enum err fail(const char *call, int rc) {
    return err_fail(code_of(rc), "state: %s: %s", call, mdb_strerror(rc));
}

static MDB_val val_of(struct state_bytes bytes) {
    return (MDB_val){.mv_size = bytes.len, .mv_data = (void *)(uintptr_t)bytes.data};
}

static struct state_bytes bytes_of(MDB_val val) {
    return (struct state_bytes){.data = val.mv_data, .len = val.mv_size};
}

enum err state_env_data_path(const char *dir, char out[STATE_ENV_PATH_BYTES]) {
    int len = snprintf(out, STATE_ENV_PATH_BYTES, "%s/data.mdb", dir);
    if (len < 0 || len >= STATE_ENV_PATH_BYTES - 16) {
        return err_fail(ERR_INVALID, "state: path %.64s... is too long", dir);
    }
    return ERR_OK;
}

/* --- opening --------------------------------------------------------------------------- */

static enum err open_databases(struct state_env *env, int is_read_only) {
    MDB_txn *txn;
    int rc = mdb_txn_begin(env->mdb, NULL, is_read_only ? MDB_RDONLY : 0, &txn);
    if (rc != 0) {
        return fail("mdb_txn_begin", rc);
    }
    for (int db = 0; db < STATE_DB_COUNT; db++) {
        unsigned flags = MDB_REVERSEKEY | (is_read_only ? 0 : MDB_CREATE);
        rc = fault_fails("state.dbi_open") ? EIO
                                           : mdb_dbi_open(txn, db_names[db], flags, &env->dbi[db]);
        if (rc == MDB_NOTFOUND) {
            env->dbi[db] = NO_DBI; /* read-only: another format, or a start that was cut short */
            rc = 0;
        }
        if (rc != 0) {
            mdb_txn_abort(txn);
            return err_fail(code_of(rc), "state: database %s: %s", db_names[db], mdb_strerror(rc));
        }
    }
    rc = mdb_txn_commit(txn);
    return rc != 0 ? fail("mdb_txn_commit", rc) : ERR_OK;
}

/* A file that is no environment must not be taken for an empty one. */
static enum err check_page_size(struct state_env *env) {
    MDB_stat stat;
    int rc = mdb_env_stat(env->mdb, &stat);
    if (rc != 0) {
        return fail("mdb_env_stat", rc);
    }
    if (stat.ms_psize != STATE_ENV_PAGE_BYTES) {
        return err_fail(ERR_UNSUPPORTED, "state: pages of %u bytes, this build needs %d",
                        stat.ms_psize, STATE_ENV_PAGE_BYTES);
    }
    return ERR_OK;
}

static enum err configure(struct state_env *env, const struct state_env_config *config) {
    int rc = fault_fails("state.env_create") ? ENOMEM : mdb_env_create(&env->mdb);
    if (rc == 0) {
        rc = mdb_env_set_maxdbs(env->mdb, STATE_DB_COUNT);
    }
    if (rc == 0) {
        rc = mdb_env_set_maxreaders(env->mdb, READERS_MAX);
    }
    if (rc == 0 && !config->is_read_only) {
        rc = mdb_env_set_mapsize(env->mdb, config->map_bytes);
    }
    if (rc != 0) {
        return fail("mdb_env_create", rc);
    }
    unsigned flags = MDB_NOTLS | MDB_NORDAHEAD | (config->is_read_only ? MDB_RDONLY : 0);
    rc = fault_fails("state.env_open") ? EIO : mdb_env_open(env->mdb, config->dir, flags, 0600);
    if (rc == ENOENT) {
        return err_fail(ERR_NOT_FOUND, "state: no environment in %s", config->dir);
    }
    if (rc != 0) {
        return err_fail(code_of(rc), "state: %s: %s", config->dir, mdb_strerror(rc));
    }
    TRY(check_page_size(env));
    return open_databases(env, config->is_read_only);
}

enum err state_env_open(const struct state_env_config *config, struct state_env **out) {
    struct state_env *env = fault_fails("state.alloc") ? NULL : calloc(1, sizeof *env);
    if (env == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for an environment");
    }
    enum err code = configure(env, config);
    if (code != ERR_OK) {
        state_env_close(env);
        return code;
    }
    *out = env;
    return ERR_OK;
}

void state_env_close(struct state_env *env) {
    if (env == NULL) {
        return;
    }
    if (env->mdb != NULL) {
        mdb_env_close(env->mdb);
    }
    free(env);
}

/* --- transactions ---------------------------------------------------------------------- */

static enum err begin(struct state_env *env, unsigned flags, struct state_txn **out) {
    struct state_txn *txn = fault_fails("state.alloc") ? NULL : malloc(sizeof *txn);
    if (txn == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for a transaction");
    }
    txn->env = env;
    int rc =
        fault_fails("state.txn_begin") ? ENOMEM : mdb_txn_begin(env->mdb, NULL, flags, &txn->mdb);
    if (rc != 0) {
        free(txn);
        return fail("mdb_txn_begin", rc);
    }
    *out = txn;
    return ERR_OK;
}

enum err state_env_begin_read(struct state_env *env, struct state_txn **out) {
    return begin(env, MDB_RDONLY, out);
}

enum err state_env_begin_write(struct state_env *env, struct state_txn **out) {
    return begin(env, 0, out);
}

enum err state_env_commit(struct state_txn *txn) {
    MDB_txn *mdb = txn->mdb;
    free(txn);
    if (fault_fails("state.commit")) {
        mdb_txn_abort(mdb);
        return fail("mdb_txn_commit", EIO);
    }
    int rc = mdb_txn_commit(mdb);
    return rc != 0 ? fail("mdb_txn_commit", rc) : ERR_OK;
}

void state_env_abort(struct state_txn *txn) {
    if (txn == NULL) {
        return;
    }
    mdb_txn_abort(txn->mdb);
    free(txn);
}

uint64_t state_env_txn_id(const struct state_txn *txn) {
    return mdb_txn_id(txn->mdb);
}

/* --- access by key --------------------------------------------------------------------- */

enum err state_env_get(struct state_txn *txn, enum state_db db, struct state_bytes key,
                       struct state_bytes *value) {
    MDB_val k = val_of(key);
    MDB_val v;
    if (txn->env->dbi[db] == NO_DBI) {
        return fail("mdb_get", MDB_NOTFOUND);
    }
    int rc = fault_fails("state.get") ? EIO : mdb_get(txn->mdb, txn->env->dbi[db], &k, &v);
    if (rc != 0) {
        return fail("mdb_get", rc);
    }
    *value = bytes_of(v);
    return ERR_OK;
}

enum err state_env_put(struct state_txn *txn, enum state_db db, struct state_bytes key,
                       struct state_bytes value) {
    MDB_val k = val_of(key);
    MDB_val v = val_of(value);
    int rc = fault_fails("state.map_full") ? MDB_MAP_FULL
             : fault_fails("state.put")    ? EIO
                                           : mdb_put(txn->mdb, txn->env->dbi[db], &k, &v, 0);
    return rc != 0 ? fail("mdb_put", rc) : ERR_OK;
}

enum err state_env_reserve(struct state_txn *txn, enum state_db db, struct state_bytes key,
                           size_t len, uint8_t **out) {
    MDB_val k = val_of(key);
    MDB_val v = {.mv_size = len};
    int rc = fault_fails("state.map_full") ? MDB_MAP_FULL
             : fault_fails("state.put")    ? EIO
                                        : mdb_put(txn->mdb, txn->env->dbi[db], &k, &v, MDB_RESERVE);
    if (rc != 0) {
        return fail("mdb_put", rc);
    }
    *out = v.mv_data;
    return ERR_OK;
}

enum err state_env_remove(struct state_txn *txn, enum state_db db, struct state_bytes key) {
    MDB_val k = val_of(key);
    int rc = fault_fails("state.remove") ? EIO : mdb_del(txn->mdb, txn->env->dbi[db], &k, NULL);
    return rc != 0 && rc != MDB_NOTFOUND ? fail("mdb_del", rc) : ERR_OK;
}

enum err state_env_count(struct state_txn *txn, enum state_db db, uint64_t *out) {
    MDB_stat stat;
    if (txn->env->dbi[db] == NO_DBI) {
        *out = 0;
        return ERR_OK;
    }
    int rc = mdb_stat(txn->mdb, txn->env->dbi[db], &stat);
    if (rc != 0) {
        return fail("mdb_stat", rc);
    }
    *out = stat.ms_entries;
    return ERR_OK;
}

void state_env_will_need(struct state_bytes value) {
    uintptr_t start = (uintptr_t)value.data & ~(uintptr_t)(STATE_ENV_PAGE_BYTES - 1);
    uintptr_t end = (uintptr_t)value.data + value.len;
    (void)madvise((void *)start, end - start, MADV_WILLNEED); /* a hint: failing costs time only */
}

/* --- cursors --------------------------------------------------------------------------- */

enum err state_env_cursor_open(struct state_txn *txn, enum state_db db, struct state_cursor **out) {
    if (txn->env->dbi[db] == NO_DBI) {
        return fail("mdb_cursor_open", MDB_NOTFOUND);
    }
    struct state_cursor *cursor = fault_fails("state.alloc") ? NULL : malloc(sizeof *cursor);
    if (cursor == NULL) {
        return err_fail(ERR_NOMEM, "state: no memory for a cursor");
    }
    int rc = fault_fails("state.cursor")
                 ? ENOMEM
                 : mdb_cursor_open(txn->mdb, txn->env->dbi[db], &cursor->mdb);
    if (rc != 0) {
        free(cursor);
        return fail("mdb_cursor_open", rc);
    }
    *out = cursor;
    return ERR_OK;
}

void state_env_cursor_close(struct state_cursor *cursor) {
    if (cursor == NULL) {
        return;
    }
    mdb_cursor_close(cursor->mdb);
    free(cursor);
}

static enum err move(struct state_cursor *cursor, MDB_cursor_op op, MDB_val *key,
                     struct state_bytes *key_out, struct state_bytes *value_out) {
    MDB_val value;
    int rc = fault_fails("state.cursor") ? EIO : mdb_cursor_get(cursor->mdb, key, &value, op);
    if (rc != 0) {
        return fail("mdb_cursor_get", rc);
    }
    *key_out = bytes_of(*key);
    *value_out = bytes_of(value);
    return ERR_OK;
}

enum err state_env_seek(struct state_cursor *cursor, struct state_bytes key,
                        struct state_bytes *key_out, struct state_bytes *value_out) {
    MDB_val k = val_of(key);
    return move(cursor, MDB_SET_RANGE, &k, key_out, value_out);
}

enum err state_env_seek_before(struct state_cursor *cursor, struct state_bytes key,
                               struct state_bytes *key_out, struct state_bytes *value_out) {
    enum err code = state_env_seek(cursor, key, key_out, value_out);
    MDB_val k;
    if (code == ERR_NOT_FOUND) {
        return move(cursor, MDB_LAST, &k, key_out, value_out);
    }
    TRY(code);
    return move(cursor, MDB_PREV, &k, key_out, value_out);
}

enum err state_env_first(struct state_cursor *cursor, struct state_bytes *key_out,
                         struct state_bytes *value_out) {
    MDB_val k;
    return move(cursor, MDB_FIRST, &k, key_out, value_out);
}

enum err state_env_next(struct state_cursor *cursor, struct state_bytes *key_out,
                        struct state_bytes *value_out) {
    MDB_val k;
    return move(cursor, MDB_NEXT, &k, key_out, value_out);
}

enum err state_env_remove_at(struct state_cursor *cursor) {
    int rc = fault_fails("state.remove") ? EIO : mdb_cursor_del(cursor->mdb, 0);
    return rc != 0 ? fail("mdb_cursor_del", rc) : ERR_OK;
}

/* --- pages and readers ------------------------------------------------------------------ */

struct oldest {
    int pid;
    uint64_t txn_id;
};

/* A line of mdb_reader_list: pid, thread, transaction or "-". */
static int note_reader(const char *line, void *context) {
    struct oldest *oldest = context;
    int pid;
    char thread[32];
    unsigned long long txn_id;
    if (sscanf(line, "%d %31s %llu", &pid, thread, &txn_id) == 3 &&
        (oldest->pid == 0 || txn_id < oldest->txn_id)) {
        *oldest = (struct oldest){.pid = pid, .txn_id = txn_id};
    }
    return 0;
}

enum err state_env_oldest_reader(struct state_env *env, int *pid_out, uint64_t *txn_id_out) {
    struct oldest oldest = {0};
    int rc = mdb_reader_list(env->mdb, note_reader, &oldest);
    if (rc < 0) {
        return fail("mdb_reader_list", rc);
    }
    *pid_out = oldest.pid;
    *txn_id_out = oldest.txn_id;
    return ERR_OK;
}

/* The free list: one entry a transaction that freed pages; its value begins with their number. */
static int count_free(MDB_txn *txn, uint64_t ready_below, struct state_env_usage *usage) {
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, FREE_DBI, &cursor);
    if (rc != 0) {
        return rc;
    }
    MDB_val key;
    MDB_val value;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t id;
        size_t count;
        if (key.mv_size != sizeof id || value.mv_size < sizeof count) {
            rc = MDB_CORRUPTED;
            break;
        }
        memcpy(&id, key.mv_data, sizeof id);
        memcpy(&count, value.mv_data, sizeof count);
        usage->free_pages += count;
        usage->ready_pages += id < ready_below ? count : 0;
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum err state_env_usage(struct state_env *env, struct state_env_usage *out) {
    MDB_envinfo info;
    int pid = 0;
    uint64_t oldest = 0;
    TRY(state_env_oldest_reader(env, &pid, &oldest));
    MDB_txn *txn;
    int rc =
        fault_fails("state.txn_begin") ? ENOMEM : mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, &txn);
    if (rc != 0) {
        return fail("mdb_txn_begin", rc);
    }
    uint64_t last = mdb_txn_id(txn);
    rc = mdb_env_info(env->mdb, &info);
    struct state_env_usage usage = {0};
    if (rc == 0) {
        rc = count_free(txn, pid != 0 && oldest < last ? oldest : last, &usage);
    }
    mdb_txn_abort(txn);
    if (rc != 0) {
        return fail("free list", rc);
    }
    usage.map_pages = info.me_mapsize / STATE_ENV_PAGE_BYTES;
    usage.file_pages = info.me_last_pgno + 1;
    *out = usage;
    return ERR_OK;
}

enum err state_env_clear_readers(struct state_env *env, int *cleared_out) {
    int rc = mdb_reader_check(env->mdb, cleared_out);
    return rc != 0 ? fail("mdb_reader_check", rc) : ERR_OK;
}

enum err state_env_copy_compact(struct state_env *env, const char *path) {
    int fd =
        fault_fails("state.copy") ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_fail(errno == ENOSPC ? ERR_FULL : ERR_IO, "state: %s: %s", path,
                        strerror(errno));
    }
    int rc = mdb_env_copyfd2(env->mdb, fd, MDB_CP_COMPACT);
    if (rc == 0 && (fault_fails("state.copy_sync") || fsync(fd) != 0)) {
        rc = EIO;
    }
    if (close(fd) != 0 && rc == 0) {
        rc = errno;
    }
    if (rc != 0) {
        (void)unlink(path);
        return fail("mdb_env_copyfd2", rc);
    }
    return ERR_OK;
}

enum err state_env_tick(struct state_env *env) {
    struct state_txn *txn;
    TRY(state_env_begin_write(env, &txn));
    uint64_t id = htole64(state_env_txn_id(txn));
    enum err code =
        state_env_put(txn, STATE_META, (struct state_bytes){tick_key, sizeof tick_key - 1},
                      (struct state_bytes){&id, sizeof id});
    if (code != ERR_OK) {
        state_env_abort(txn);
        return code;
    }
    return state_env_commit(txn);
}
