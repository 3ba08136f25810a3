/*
 * Who may use the server: API keys and the tenant of each, from a file with lines
 * "KEY TENANT"; empty lines and lines that begin with '#' are skipped. Keys are kept as
 * hashes and compared in constant time. Read-only after loading, any thread.
 */
#ifndef TERN_SERVER_API_KEYS_H
#define TERN_SERVER_API_KEYS_H

#include "base/err.h"

struct api_keys;

/* ERR_IO, or ERR_FORMAT naming file and line. */
MUST_USE enum err api_keys_load(const char *path, struct api_keys **out);
void api_keys_destroy(struct api_keys *keys); /* NULL is allowed */

/*
 * The tenant of a field "Authorization: Bearer KEY", borrowed from KEYS; NULL if there is none.
 * AUTHORIZATION may be NULL.
 */
const char *api_keys_tenant(const struct api_keys *keys, const char *authorization);

#endif
