/*
 * I1  An entry is taken only if it names exactly the identity of the mapped file.
 * I2  An entry is written only if the file was unchanged for RACY_MS before hashing began and has
 *     the same identity after it. A file changed within one tick of the file system's clock keeps
 *     its ctime; this way any change after hashing began gets a ctime that no entry has.
 * I3  An entry is replaced as a whole: written beside, synced, renamed, the folder synced.
 *
 * An entry, `weights-<device>-<inode>` (16 hexadecimal digits each), little-endian:
 *
 *     0   8  "TERNWDG1"
 *     8   8  device
 *    16   8  inode
 *    24   8  size in bytes
 *    32   8  mtime in nanoseconds
 *    40   8  ctime in nanoseconds
 *    48  32  digest of the model file
 *    80  16  BLAKE2b-128 of bytes 0 to 79: against damage, not against forgery, for which the
 *            entry must be ours and closed to others
 */
#include "engine/model_digest.h"

#include "base/log.h"
#include "base/now.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    AT_DEVICE = 8,
    AT_INODE = 16,
    AT_SIZE = 24,
    AT_MTIME = 32,
    AT_CTIME = 40,
    AT_DIGEST = 48,
    AT_CHECK = AT_DIGEST + MODEL_DIGEST_BYTES,
    CHECK_BYTES = 16,
    ENTRY_BYTES = AT_CHECK + CHECK_BYTES,
    RACY_MS = 2000, /* file systems with the coarsest clock count in steps of two seconds */
    PATH_BYTES = 4096,
};

_Static_assert(ENTRY_BYTES == 96, "the format of an entry");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are written as they lie");

static void close_fd(const int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
}

static void encode(const struct gguf_identity *identity, const uint8_t digest[MODEL_DIGEST_BYTES],
                   uint8_t entry[ENTRY_BYTES]) {
    memcpy(entry, "TERNWDG1", 8);
    memcpy(entry + AT_DEVICE, &identity->device, 8);
    memcpy(entry + AT_INODE, &identity->inode, 8);
    memcpy(entry + AT_SIZE, &identity->size_bytes, 8);
    memcpy(entry + AT_MTIME, &identity->mtime_ns, 8);
    memcpy(entry + AT_CTIME, &identity->ctime_ns, 8);
    memcpy(entry + AT_DIGEST, digest, MODEL_DIGEST_BYTES);
    crypto_generichash(entry + AT_CHECK, CHECK_BYTES, entry, AT_CHECK, NULL, 0);
}

static enum err entry_path(const char *cache_dir, const struct gguf_identity *identity,
                           char path[PATH_BYTES]) {
    int length = snprintf(path, PATH_BYTES, "%s/weights-%016" PRIx64 "-%016" PRIx64, cache_dir,
                          identity->device, identity->inode);
    if (length < 0 || length >= PATH_BYTES - (int)sizeof ".XXXXXX") {
        return err_fail(ERR_INVALID, "folder name too long");
    }
    return ERR_OK;
}

/* Everything that makes an entry not worth its bytes is an error here; the caller only says so. */
static enum err recall(const char *path, const struct gguf_identity *identity,
                       uint8_t out[MODEL_DIGEST_BYTES]) {
    /* No link is followed, and a pipe put in its place does not block. */
    int fd CLEANUP(close_fd) = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return err_fail(ERR_NOT_FOUND, "open: %s", strerror(errno));
    }
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return err_fail(ERR_IO, "fstat: %s", strerror(errno));
    }
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 077) != 0 ||
        status.st_size != ENTRY_BYTES) {
        return err_fail(ERR_CORRUPT, "expected a file of ours, of mode 0600 and %d bytes",
                        ENTRY_BYTES);
    }
    uint8_t entry[ENTRY_BYTES];
    uint8_t expected[ENTRY_BYTES];
    if (read(fd, entry, sizeof entry) != (ssize_t)sizeof entry) {
        return err_fail(ERR_IO, "read: not all bytes came");
    }
    encode(identity, entry + AT_DIGEST, expected); /* I1: equal only if every field is */
    if (memcmp(entry, expected, AT_DIGEST) != 0) {
        return err_fail(ERR_CONFLICT, "about another file or another state of it");
    }
    if (memcmp(entry, expected, sizeof entry) != 0) {
        return err_fail(ERR_CORRUPT, "checksum does not match");
    }
    memcpy(out, entry + AT_DIGEST, MODEL_DIGEST_BYTES);
    return ERR_OK;
}

static enum err write_synced(int fd, const uint8_t *bytes, size_t len) {
    while (len > 0) {
        ssize_t written = write(fd, bytes, len);
        if (written < 0 && errno != EINTR) {
            return err_fail(ERR_IO, "write: %s", strerror(errno));
        }
        if (written > 0) {
            bytes += written;
            len -= (size_t)written;
        }
    }
    return fsync(fd) == 0 ? ERR_OK : err_fail(ERR_IO, "fsync: %s", strerror(errno));
}

/* I3 */
static enum err remember(const char *cache_dir, const char *path, const uint8_t *entry) {
    char beside[PATH_BYTES + 8];
    snprintf(beside, sizeof beside, "%s.XXXXXX", path);
    int fd CLEANUP(close_fd) = mkostemp(beside, O_CLOEXEC); /* mode 0600 */
    if (fd < 0) {
        return err_fail(ERR_IO, "mkostemp: %s", strerror(errno));
    }
    enum err err = write_synced(fd, entry, ENTRY_BYTES);
    if (err == ERR_OK && rename(beside, path) != 0) {
        err = err_fail(ERR_IO, "rename: %s", strerror(errno));
    }
    if (err != ERR_OK) {
        unlink(beside);
        return err;
    }
    int folder CLEANUP(close_fd) = open(cache_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fsync(folder) != 0) {
        return err_fail(ERR_IO, "fsync of the folder: %s", strerror(errno));
    }
    return ERR_OK;
}

/* Did both times lie RACY_MS back at NOW_MS? A time in the future did not. */
static int is_settled(const struct gguf_identity *identity, uint64_t now_ms) {
    int64_t latest_ns =
        identity->mtime_ns > identity->ctime_ns ? identity->mtime_ns : identity->ctime_ns;
    return latest_ns / 1000000 + RACY_MS <= (int64_t)now_ms;
}

static int is_unchanged(const char *path, const struct gguf_identity *identity) {
    struct stat status;
    return stat(path, &status) == 0 && status.st_dev == identity->device &&
           status.st_ino == identity->inode && (uint64_t)status.st_size == identity->size_bytes &&
           status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec == identity->mtime_ns &&
           status.st_ctim.tv_sec * 1000000000 + status.st_ctim.tv_nsec == identity->ctime_ns;
}

static void hash(const struct gguf *file, uint8_t out[MODEL_DIGEST_BYTES]) {
    size_t bytes;
    const void *data = gguf_data(file, &bytes);
    crypto_generichash(out, MODEL_DIGEST_BYTES, data, bytes, NULL, 0);
}

static void hash_and_remember(const char *path, const struct gguf *file, const char *cache_dir,
                              const struct gguf_identity *identity, const char *entry_at,
                              uint8_t out[MODEL_DIGEST_BYTES]) {
    int may_remember = is_settled(identity, now_wall_ms()); /* before the first byte is read: I2 */
    hash(file, out);
    if (!may_remember || !is_unchanged(path, identity)) {
        log_debug("%s changed lately, its digest is not remembered", path);
        return;
    }
    uint8_t entry[ENTRY_BYTES];
    encode(identity, out, entry);
    if (remember(cache_dir, entry_at, entry) != ERR_OK) {
        log_debug("%s: %s", entry_at, err_message());
    }
}

enum err model_digest_file(const char *path, const struct gguf *file, const char *cache_dir,
                           uint8_t out[MODEL_DIGEST_BYTES]) {
    struct gguf_identity identity;
    char entry_at[PATH_BYTES];
    if (sodium_init() < 0) {
        return err_fail(ERR_UNSUPPORTED, "libsodium does not start");
    }
    if (cache_dir == NULL || !gguf_get_identity(file, &identity)) {
        hash(file, out);
        return ERR_OK;
    }
    enum err err = entry_path(cache_dir, &identity, entry_at);
    if (err != ERR_OK) {
        return err_context(err, "%s", cache_dir);
    }
    err = recall(entry_at, &identity, out);
    if (err != ERR_OK) {
        log_debug("%s: %s, hashing %s", entry_at, err_message(), path);
        hash_and_remember(path, file, cache_dir, &identity, entry_at, out);
    }
    err_clear();
    return ERR_OK;
}
