/*
 * The file, all of its 64 bytes:
 *
 *    0   8  magic "TERNSEC1"
 *    8   8  zero
 *   16  32  the secret
 *   48  16  BLAKE2b-128 of bytes 0 to 47, without a key
 */
#include "ledger/secret.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_BYTES = 64, SECRET_AT = 16, DIGEST_AT = 48, DIGEST_BYTES = 16 };

static const char file_magic[8] = {'T', 'E', 'R', 'N', 'S', 'E', 'C', '1'};
static const char file_name[] = "secret";
static const char file_name_aside[] = "secret.tmp";

static void close_fd(int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
}

static void digest(const uint8_t *bytes, uint8_t out[DIGEST_BYTES]) {
    crypto_generichash_blake2b(out, DIGEST_BYTES, bytes, DIGEST_AT, NULL, 0);
}

static enum err read_file(int directory_fd, const char *directory, struct secret *out) {
    int fd CLEANUP(close_fd) =
        fault_fails("secret.open")
            ? (errno = EIO, -1)
            : openat(directory_fd, file_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        return err_fail(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s/%s: %s", directory, file_name,
                        strerror(errno));
    }
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return err_fail(ERR_IO, "%s/%s: %s", directory, file_name, strerror(errno));
    }
    if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 077) != 0) {
        return err_fail(ERR_INVALID,
                        "%s/%s must be a regular file of this user's with mode 0600, it has %04o",
                        directory, file_name, (unsigned)status.st_mode & 07777u);
    }
    uint8_t bytes[FILE_BYTES];
    ssize_t got = fault_fails("secret.read") ? (errno = EIO, -1) : read(fd, bytes, sizeof bytes);
    if (got < 0) {
        return err_fail(ERR_IO, "%s/%s: %s", directory, file_name, strerror(errno));
    }
    if (got != FILE_BYTES || status.st_size != FILE_BYTES ||
        memcmp(bytes, file_magic, sizeof file_magic) != 0) {
        return err_fail(ERR_FORMAT, "%s/%s is not a tern secret of %d bytes", directory, file_name,
                        FILE_BYTES);
    }
    uint8_t expected[DIGEST_BYTES];
    digest(bytes, expected);
    enum err code = ERR_OK;
    if (memcmp(expected, bytes + DIGEST_AT, DIGEST_BYTES) != 0) {
        code = err_fail(ERR_CORRUPT, "%s/%s fails its checksum; restore it from the back-up",
                        directory, file_name);
    } else {
        memcpy(out->bytes, bytes + SECRET_AT, SECRET_BYTES);
    }
    sodium_memzero(bytes, sizeof bytes);
    return code;
}

static enum err write_aside(int directory_fd, const char *directory) {
    uint8_t bytes[FILE_BYTES] = {0};
    memcpy(bytes, file_magic, sizeof file_magic);
    randombytes_buf(bytes + SECRET_AT, SECRET_BYTES);
    digest(bytes, bytes + DIGEST_AT);

    /* A leftover of a crash was never in use. */
    if (unlinkat(directory_fd, file_name_aside, 0) != 0 && errno != ENOENT) {
        return err_fail(ERR_IO, "%s/%s: %s", directory, file_name_aside, strerror(errno));
    }
    int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW;
    int fd CLEANUP(close_fd) = fault_fails("secret.create")
                                   ? (errno = ENOSPC, -1)
                                   : openat(directory_fd, file_name_aside, flags, 0600);
    int is_written = fd >= 0 && !fault_fails("secret.write") &&
                     write(fd, bytes, sizeof bytes) == FILE_BYTES && !fault_fails("secret.sync") &&
                     fsync(fd) == 0;
    sodium_memzero(bytes, sizeof bytes);
    if (!is_written) {
        return err_fail(ERR_IO, "%s/%s cannot be written: %s", directory, file_name_aside,
                        strerror(errno));
    }
    return ERR_OK;
}

static enum err create_file(int directory_fd, const char *directory) {
    TRY(write_aside(directory_fd, directory));
    FAULT_KILL("secret.written");
    /* A link, not a rename: it never replaces a secret that is there. */
    int is_in_place = !fault_fails("secret.link") &&
                      linkat(directory_fd, file_name_aside, directory_fd, file_name, 0) == 0 &&
                      unlinkat(directory_fd, file_name_aside, 0) == 0;
    FAULT_KILL("secret.linked");
    if (!is_in_place || fault_fails("secret.directory_sync") || fsync(directory_fd) != 0) {
        return err_fail(ERR_IO, "%s/%s cannot be put in place: %s", directory, file_name,
                        strerror(errno));
    }
    return ERR_OK;
}

enum err secret_load(const char *directory, int may_create, struct secret *out) {
    if (sodium_init() < 0) {
        return err_fail(ERR_UNSUPPORTED, "libsodium cannot be initialised");
    }
    int fd CLEANUP(close_fd) = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return err_fail(ERR_IO, "store directory %s: %s", directory, strerror(errno));
    }
    struct secret loaded;
    enum err code = read_file(fd, directory, &loaded);
    if (code == ERR_NOT_FOUND && may_create) {
        TRY(create_file(fd, directory));
        code = read_file(fd, directory, &loaded);
    }
    TRY(code);
    *out = loaded;
    secret_done(&loaded);
    return ERR_OK;
}

void secret_check(const struct secret *secret, uint8_t out[SECRET_CHECK_BYTES]) {
    static const char domain[] = "tern.secret.check";
    crypto_generichash_blake2b(out, SECRET_CHECK_BYTES, (const uint8_t *)domain, sizeof domain - 1,
                               secret->bytes, SECRET_BYTES);
}

void secret_done(struct secret *secret) {
    sodium_memzero(secret, sizeof *secret);
}
