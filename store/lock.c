/*
 * DIR/LOCK   text: the holder's process id in decimal and a newline. Locked by flock while held;
 *            never removed, since a removed file can be locked by one and made anew by another.
 * DIR/CLEAN  empty; there from a clean end to the next start.
 *
 * I1: CLEAN is removed, and the removal synced, before lock_acquire returns; so a crash at any
 *     time after that is seen as one.
 */
#include "store/lock.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct lock {
    int dir_fd;
    int file_fd;
    int was_clean;
};

static enum err fail(const char *dir, const char *what) {
    return err_fail(ERR_IO, "store: %s: %s: %s", dir, what, strerror(errno));
}

static enum err open_dir(struct lock *lock, const char *dir) {
    int is_new = mkdir(dir, 0700) == 0;
    if (!is_new && errno != EEXIST) {
        return fail(dir, "cannot be made");
    }
    lock->dir_fd = fault_fails("lock.open") ? -1 : open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock->dir_fd < 0) {
        return fail(dir, "cannot be opened");
    }
    if (is_new) {
        int parent = openat(lock->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int rc = parent < 0 ? -1 : fsync(parent);
        if (parent >= 0) {
            (void)close(parent);
        }
        if (rc != 0) {
            return fail(dir, "its parent cannot be synced");
        }
    }
    return ERR_OK;
}

static enum err refuse_busy(const struct lock *lock, const char *dir) {
    char text[32] = {0};
    ssize_t len = pread(lock->file_fd, text, sizeof text - 1, 0);
    long pid = len > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 ? err_fail(ERR_BUSY, "store: %s is in use by process %ld", dir, pid)
                   : err_fail(ERR_BUSY, "store: %s is in use by another process", dir);
}

static enum err write_pid(const struct lock *lock, const char *dir) {
    char text[32];
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (fault_fails("lock.write") || ftruncate(lock->file_fd, 0) != 0 ||
        pwrite(lock->file_fd, text, (size_t)len, 0) != len) {
        return fail(dir, "LOCK cannot be written");
    }
    return ERR_OK;
}

/* I1 */
static enum err take_clean_mark(struct lock *lock, const char *dir, int is_first) {
    if (unlinkat(lock->dir_fd, "CLEAN", 0) == 0) {
        lock->was_clean = 1;
    } else if (errno == ENOENT) {
        lock->was_clean = is_first;
    } else {
        return fail(dir, "CLEAN cannot be removed");
    }
    if (fault_fails("lock.sync") || fsync(lock->dir_fd) != 0) {
        return fail(dir, "cannot be synced");
    }
    return ERR_OK;
}

static enum err acquire(struct lock *lock, const char *dir) {
    TRY(open_dir(lock, dir));
    struct stat stat_buf;
    int is_first = fstatat(lock->dir_fd, "LOCK", &stat_buf, 0) != 0 && errno == ENOENT;
    lock->file_fd = fault_fails("lock.open")
                        ? -1
                        : openat(lock->dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock->file_fd < 0) {
        return fail(dir, "LOCK cannot be opened");
    }
    if (flock(lock->file_fd, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK ? refuse_busy(lock, dir) : fail(dir, "LOCK cannot be locked");
    }
    TRY(write_pid(lock, dir));
    return take_clean_mark(lock, dir, is_first);
}

enum err lock_acquire(const char *dir, struct lock **out) {
    struct lock *lock = fault_fails("lock.alloc") ? NULL : calloc(1, sizeof *lock);
    if (lock == NULL) {
        return err_fail(ERR_NOMEM, "store: no memory for a lock");
    }
    lock->dir_fd = -1;
    lock->file_fd = -1;
    enum err code = acquire(lock, dir);
    if (code != ERR_OK) {
        lock_release(lock, 0);
        return code;
    }
    *out = lock;
    return ERR_OK;
}

int lock_was_clean(const struct lock *lock) {
    return lock->was_clean;
}

static void mark_clean(const struct lock *lock) {
    int fd = fault_fails("lock.clean")
                 ? -1
                 : openat(lock->dir_fd, "CLEAN", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
        (void)fsync(lock->dir_fd);
    }
}

void lock_release(struct lock *lock, int is_clean) {
    if (lock == NULL) {
        return;
    }
    if (is_clean && lock->file_fd >= 0) {
        mark_clean(lock);
    }
    if (lock->file_fd >= 0) {
        (void)close(lock->file_fd); /* the lock goes with the last descriptor */
    }
    if (lock->dir_fd >= 0) {
        (void)close(lock->dir_fd);
    }
    free(lock);
}
