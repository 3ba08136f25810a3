/*
 * Files of a state directory:
 *   data.mdb        the environment; never longer than its map
 *   lock.mdb        LMDB's table of readers, below LOCK_FILE_BYTES
 *   data.mdb.copy   a compacted copy under way; removed at the next start
 *   data.mdb.aside  an environment that killed the process that walked it
 *
 * I1: a format newer than this build is noticed through a read-only environment, before anything
 *     is changed.
 * I2: the map is the cap less everything else that may lie in the directory, so the data file
 *     can't pass it.
 * I3: a compacted copy takes the data file's place by a rename after it was synced; whatever
 *     fails on the way there ends in an empty state, never in one above the cap.
 */
#include "store/state_open.h"

#include "base/fault.h"
#include "base/now.h"
#include "store/coded_object.h"
#include "store/room.h"
#include "store/state_table.h"
#include "store/state_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LOCK_FILE_BYTES = 64 * 1024,
    SHRINK_MAP_SPARE_BYTES = 16 * 1024 * 1024, /* for the evictions before a rewrite */
};

static const uint64_t LINEAGES_A_RUN = UINT64_C(1) << 32;

struct paths {
    const char *dir;
    char data[STATE_ENV_PATH_BYTES];
    char lock[STATE_ENV_PATH_BYTES];
    char copy[STATE_ENV_PATH_BYTES + 8];
    char aside[STATE_ENV_PATH_BYTES + 8];
};

static enum err paths_init(struct paths *paths, const char *dir) {
    paths->dir = dir;
    TRY(state_env_data_path(dir, paths->data));
    snprintf(paths->lock, sizeof paths->lock, "%.*s/lock.mdb", STATE_ENV_PATH_BYTES - 16, dir);
    snprintf(paths->copy, sizeof paths->copy, "%s.copy", paths->data);
    snprintf(paths->aside, sizeof paths->aside, "%s.aside", paths->data);
    return ERR_OK;
}

/* --- files ----------------------------------------------------------------------------- */

static enum err sync_dir(const char *dir) {
    int fd = fault_fails("state.dir_open") ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_fail(ERR_IO, "state: %s: %s", dir, strerror(errno));
    }
    int rc = fault_fails("state.dir_sync") ? -1 : fsync(fd);
    int code = errno;
    (void)close(fd);
    return rc != 0 ? err_fail(ERR_IO, "state: sync of %s: %s", dir, strerror(code)) : ERR_OK;
}

static enum err make_dir(const char *dir) {
    if (fault_fails("state.mkdir")) {
        return err_fail(ERR_IO, "state: %s: cannot be made", dir);
    }
    if (mkdir(dir, 0700) != 0) {
        if (errno != EEXIST) {
            return err_fail(ERR_IO, "state: %s: %s", dir, strerror(errno));
        }
        struct stat stat_buf;
        if (stat(dir, &stat_buf) != 0 || !S_ISDIR(stat_buf.st_mode)) {
            return err_fail(ERR_IO, "state: %s is no directory", dir);
        }
        return ERR_OK;
    }
    char parent[STATE_ENV_PATH_BYTES];
    if (snprintf(parent, sizeof parent, "%s/..", dir) >= (int)sizeof parent) {
        return err_fail(ERR_INVALID, "state: path %.64s... is too long", dir);
    }
    return sync_dir(parent);
}

static uint64_t file_bytes(const char *path) {
    struct stat stat_buf;
    return stat(path, &stat_buf) == 0 && stat_buf.st_size > 0 ? (uint64_t)stat_buf.st_size : 0;
}

static enum err remove_file(const char *path) {
    if (fault_fails("state.unlink") || (unlink(path) != 0 && errno != ENOENT)) {
        return err_fail(ERR_IO, "state: %s can't be removed: %s", path, strerror(errno));
    }
    return ERR_OK;
}

enum err state_open_set_aside(const char *dir) {
    struct paths paths;
    TRY(paths_init(&paths, dir));
    if (fault_fails("state.rename") || (rename(paths.data, paths.aside) != 0 && errno != ENOENT)) {
        return err_fail(ERR_IO, "state: %s can't be set aside: %s", paths.data, strerror(errno));
    }
    TRY(remove_file(paths.lock));
    return file_bytes(paths.aside) > 0 ? sync_dir(dir) : ERR_OK;
}

/* --- the cap --------------------------------------------------------------------------- */

/* I2. What was set aside goes if it would take half of the cap. */
static enum err map_bytes_of(const struct paths *paths, uint64_t bytes_max, size_t *out) {
    uint64_t aside = file_bytes(paths->aside);
    if (aside > bytes_max / 2) {
        TRY(remove_file(paths->aside));
        aside = 0;
    }
    uint64_t map = bytes_max - aside - LOCK_FILE_BYTES;
    *out = (size_t)(map / STATE_ENV_PAGE_BYTES * STATE_ENV_PAGE_BYTES);
    return ERR_OK;
}

/* Evicts, and writes what is left to paths->copy. */
static enum err shrink_to_copy(const struct paths *paths, size_t map_bytes,
                               struct state_open_result *result) {
    struct state_env *env;
    TRY(state_env_open(
        &(struct state_env_config){.dir = paths->dir,
                                   .map_bytes = file_bytes(paths->data) + SHRINK_MAP_SPARE_BYTES},
        &env));
    /* A quarter of the new map stays free, so that the first spills need not evict. */
    uint64_t pages = map_bytes / STATE_ENV_PAGE_BYTES / 4 * 3;
    struct room_result room = {0};
    enum err code = room_shrink(env, pages, &room);
    if (code == ERR_OK) {
        code = state_env_copy_compact(env, paths->copy);
    }
    state_env_close(env);
    TRY(code);
    result->heads_evicted = room.heads_evicted;
    return ERR_OK;
}

static enum err replace_by_copy(const struct paths *paths, size_t map_bytes) {
    if (file_bytes(paths->copy) > map_bytes) {
        return err_fail(ERR_FULL, "state: the copy does not fit under the cap either");
    }
    if (fault_fails("state.rename") || rename(paths->copy, paths->data) != 0) {
        return err_fail(ERR_IO, "state: %s: %s", paths->copy, strerror(errno));
    }
    TRY(remove_file(paths->lock));
    return sync_dir(paths->dir);
}

/* I3 */
static enum err meet_cap(const struct paths *paths, size_t map_bytes,
                         struct state_open_result *result) {
    if (file_bytes(paths->data) <= map_bytes) {
        return ERR_OK;
    }
    FAULT_KILL("shrink.before");
    enum err code = shrink_to_copy(paths, map_bytes, result);
    FAULT_KILL("shrink.in");
    if (code == ERR_OK) {
        code = replace_by_copy(paths, map_bytes);
    }
    FAULT_KILL("shrink.after");
    if (code == ERR_OK) {
        return ERR_OK;
    }
    result->is_begun_anew = 1;
    result->heads_evicted = 0;
    TRY(remove_file(paths->copy));
    TRY(remove_file(paths->data));
    TRY(remove_file(paths->lock));
    return sync_dir(paths->dir);
}

/* --- format ---------------------------------------------------------------------------- */

static void end_txn(struct state_txn **txn) {
    state_env_abort(*txn);
}

static enum err read_format(struct state_env *env, struct record_format *out) {
    struct state_txn *txn CLEANUP(end_txn) = NULL;
    TRY(state_env_begin_read(env, &txn));
    return state_table_get_format(txn, out);
}

/* I1. A file without a format record comes from a start that was cut short. */
static enum err check_format(const struct paths *paths) {
    if (file_bytes(paths->data) == 0) {
        return ERR_OK;
    }
    struct state_env *env;
    TRY(state_env_open(&(struct state_env_config){.dir = paths->dir, .is_read_only = 1}, &env));
    struct record_format format;
    enum err code = read_format(env, &format);
    state_env_close(env);
    return code == ERR_NOT_FOUND ? ERR_OK : code;
}

/* Takes a range of lineage ids for this run. */
static enum err take_range(struct state_env *env, struct state_open_result *result) {
    struct record_format format;
    enum err code = read_format(env, &format);
    if (code == ERR_NOT_FOUND) {
        format = (struct record_format){
            .version = RECORD_FORMAT_VERSION, .lineage_next = 1, .created_ms = now_wall_ms()};
        result->is_fresh = 1;
    } else {
        TRY(code);
    }
    if (format.lineage_next > UINT64_MAX - LINEAGES_A_RUN) {
        return err_fail(ERR_UNSUPPORTED, "state: no lineage ids are left");
    }
    result->lineage_first = format.lineage_next;
    format.lineage_next += LINEAGES_A_RUN;
    struct state_txn *txn;
    TRY(state_env_begin_write(env, &txn));
    code = state_table_put_format(txn, &format);
    if (code != ERR_OK) {
        state_env_abort(txn);
        return code;
    }
    return state_env_commit(txn);
}

static enum err note_largest(void *context, const struct record_head *head) {
    uint64_t *largest = context;
    uint64_t pages = 0;
    if (head->tail_coded_bytes != 0) {
        pages += coded_object_extent((size_t)head->tail_coded_bytes).pages;
    }
    if (head->state_coded_bytes != 0) {
        pages += coded_object_extent((size_t)head->state_coded_bytes).pages;
    }
    *largest = pages > *largest ? pages : *largest;
    return ERR_OK;
}

enum err state_open(const struct state_open_config *config, struct state_open_result *result,
                    struct state_env **out) {
    struct paths paths;
    TRY(paths_init(&paths, config->dir));
    TRY(make_dir(config->dir));
    TRY(remove_file(paths.copy));
    TRY(check_format(&paths));
    size_t map_bytes = 0;
    TRY(map_bytes_of(&paths, config->bytes_max, &map_bytes));
    struct state_open_result opened = {0};
    TRY(meet_cap(&paths, map_bytes, &opened));
    int is_new_file = file_bytes(paths.data) == 0;
    struct state_env *env;
    TRY(state_env_open(&(struct state_env_config){.dir = config->dir, .map_bytes = map_bytes},
                       &env));
    uint64_t refused;
    enum err code = is_new_file ? sync_dir(config->dir) : ERR_OK;
    if (code == ERR_OK) {
        code = take_range(env, &opened);
    }
    if (code == ERR_OK) {
        code = state_walk_each_head(env, note_largest, &opened.largest_pages, &refused);
    }
    if (code != ERR_OK) {
        state_env_close(env);
        return code;
    }
    *result = opened;
    *out = env;
    return ERR_OK;
}
