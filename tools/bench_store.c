#include "tools/bench_store.h"

#include "base/now.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEP_BYTES = 1 << 20, PAGE_BYTES = 4096 };

enum err bench_store_make(char path[BENCH_STORE_PATH_BYTES]) {
    const char *parent = getenv("TMPDIR");
    parent = parent != NULL && parent[0] != '\0' ? parent : "/var/tmp";
    int len = snprintf(path, BENCH_STORE_PATH_BYTES, "%s/tern-bench-XXXXXX", parent);
    if (len >= BENCH_STORE_PATH_BYTES) {
        return err_fail(ERR_INVALID, "TMPDIR is too long");
    }
    if (mkdtemp(path) == NULL) {
        return err_fail(ERR_IO, "a directory in %s: %s", parent, strerror(errno));
    }
    return ERR_OK;
}

/* Calls VISIT for each file and, behind what is in it, each directory under PATH. */
static enum err walk(const char *path, enum err (*visit)(void *context, const FTSENT *entry),
                     void *context) {
    char *roots[] = {(char *)(uintptr_t)path, NULL}; /* fts leaves it alone */
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    if (tree == NULL) {
        return err_fail(ERR_IO, "%s: %s", path, strerror(errno));
    }
    enum err code = ERR_OK;
    for (const FTSENT *entry; code == ERR_OK && (entry = fts_read(tree)) != NULL;) {
        if (entry->fts_info == FTS_ERR || entry->fts_info == FTS_DNR || entry->fts_info == FTS_NS) {
            code = err_fail(entry->fts_errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s",
                            entry->fts_path, strerror(entry->fts_errno));
        } else if (entry->fts_info != FTS_D) {
            code = visit(context, entry);
        }
    }
    fts_close(tree);
    return code;
}

static enum err remove_one(void *context, const FTSENT *entry) {
    (void)context;
    int failed = entry->fts_info == FTS_DP ? rmdir(entry->fts_path) : unlink(entry->fts_path);
    return failed ? err_fail(ERR_IO, "%s: %s", entry->fts_path, strerror(errno)) : ERR_OK;
}

enum err bench_store_remove(const char *path) {
    return walk(path, remove_one, NULL);
}

static enum err walk_part(const char *path, const char *part,
                          enum err (*visit)(void *context, const FTSENT *entry), void *context) {
    char folder[BENCH_STORE_PATH_BYTES];
    int len = snprintf(folder, sizeof folder, "%s/%s", path, part);
    if (len < 0 || (size_t)len >= sizeof folder) {
        return err_fail(ERR_INVALID, "path %.64s... is too long", path);
    }
    return walk(folder, visit, context);
}

static enum err add_bytes(void *context, const FTSENT *entry) {
    *(uint64_t *)context += 512 * (uint64_t)entry->fts_statp->st_blocks;
    return ERR_OK;
}

enum err bench_store_measure(const char *path, struct bench_store_size *out) {
    struct bench_store_size size = {0};
    TRY(walk_part(path, "ledger", add_bytes, &size.ledger_bytes));
    TRY(walk_part(path, "state", add_bytes, &size.state_bytes));
    *out = size;
    return ERR_OK;
}

/* --- the page cache ----------------------------------------------------------------------------
 */

static enum err open_file(const char *path, int *out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_fail(ERR_IO, "%s: %s", path, strerror(errno));
    }
    *out = fd;
    return ERR_OK;
}

static enum err read_one(void *context, const FTSENT *entry) {
    struct bench_store_reading *reading = context;
    int fd;
    if (entry->fts_info != FTS_F) {
        return ERR_OK;
    }
    char *step CLEANUP(object_free) = malloc(STEP_BYTES);
    if (step == NULL) {
        return err_fail(ERR_NOMEM, "buffer");
    }
    TRY(open_file(entry->fts_path, &fd));
    ssize_t len = 1;
    while (len > 0) {
        len = read(fd, step, STEP_BYTES);
        reading->bytes += len > 0 ? (uint64_t)len : 0;
    }
    enum err code = len < 0 ? err_fail(ERR_IO, "%s: %s", entry->fts_path, strerror(errno)) : ERR_OK;
    close(fd);
    return code;
}

enum err bench_store_read(const char *path, struct bench_store_reading *out) {
    struct bench_store_reading reading = {0};
    uint64_t started_ns = now_monotonic_ns();
    TRY(walk_part(path, "state", read_one, &reading));
    reading.seconds = (double)(now_monotonic_ns() - started_ns) * 1e-9;
    *out = reading;
    return ERR_OK;
}

struct residence {
    size_t pages;
    size_t resident;
};

static enum err count_resident(int fd, const FTSENT *entry, struct residence *sum) {
    size_t bytes = (size_t)entry->fts_statp->st_size;
    size_t pages = (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
    if (bytes == 0) {
        return ERR_OK;
    }
    unsigned char *is_resident CLEANUP(object_free) = malloc(pages);
    if (is_resident == NULL) {
        return err_fail(ERR_NOMEM, "%zu pages", pages);
    }
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        return err_fail(ERR_IO, "%s cannot be mapped: %s", entry->fts_path, strerror(errno));
    }
    int failed = mincore(map, bytes, is_resident);
    munmap(map, bytes);
    if (failed) {
        return err_fail(ERR_IO, "mincore of %s: %s", entry->fts_path, strerror(errno));
    }
    sum->pages += pages;
    for (size_t i = 0; i < pages; i++) {
        sum->resident += is_resident[i] & 1;
    }
    return ERR_OK;
}

static enum err drop_one(void *context, const FTSENT *entry) {
    int fd;
    if (entry->fts_info != FTS_F) {
        return ERR_OK;
    }
    TRY(open_file(entry->fts_path, &fd));
    enum err code = ERR_OK;
    if (fsync(fd) != 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0) {
        code = err_fail(ERR_IO, "%s cannot be dropped from the page cache", entry->fts_path);
    }
    code = code == ERR_OK ? count_resident(fd, entry, context) : code;
    close(fd);
    return code;
}

enum err bench_store_drop(const char *path, double *resident_out) {
    struct residence sum = {0};
    TRY(walk_part(path, "state", drop_one, &sum));
    *resident_out = sum.pages > 0 ? (double)sum.resident / (double)sum.pages : 0;
    return ERR_OK;
}
