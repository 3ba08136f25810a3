/*
 * The server's secret: 32 random bytes in the file `secret` of the store directory, under which
 * conversation keys are hashed. Made once, at the first start; a ledger whose secret is lost
 * cannot be asked for any conversation by its name, so the file belongs to the back-up.
 *
 * Call from one thread at start. Owns nothing.
 */
#ifndef TERN_LEDGER_SECRET_H
#define TERN_LEDGER_SECRET_H

#include "base/err.h"

enum { SECRET_BYTES = 32, SECRET_CHECK_BYTES = 16 };

struct secret {
    uint8_t bytes[SECRET_BYTES];
};

/*
 * Reads DIRECTORY/secret, which must be a regular file of this user's that nobody else may read.
 * If there is none and MAY_CREATE is set, makes one: written aside, synced, linked into place,
 * the directory synced. Set MAY_CREATE only while the store holds no ledger.
 *
 * ERR_NOT_FOUND without a file, ERR_INVALID for a file that others can read, ERR_FORMAT or
 * ERR_CORRUPT for one that is not a secret.
 */
MUST_USE enum err secret_load(const char *directory, int may_create, struct secret *out);

/* A value that two secrets share only if they are equal, and that tells nothing about them. */
void secret_check(const struct secret *secret, uint8_t out[SECRET_CHECK_BYTES]);

/* Wipes it. */
void secret_done(struct secret *secret);

#endif
