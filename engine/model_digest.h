/*
 * The digest of a model file: BLAKE2b-256 over all its bytes, part of the state
 * digest. Hashing reads the whole file, so the result can be remembered in a folder,
 * one small file per model file, for as long as device, inode, size, mtime and ctime
 * stay as they are. What is remembered is only ever a saving: it is checked, and when
 * it is missing, damaged, writable by others or about another state of the file, the
 * file is hashed again. Any thread may call.
 */
#ifndef TERN_ENGINE_MODEL_DIGEST_H
#define TERN_ENGINE_MODEL_DIGEST_H

#include "engine/gguf.h"

enum { MODEL_DIGEST_BYTES = 32 };

/*
 * FILE was opened from PATH, which is looked at again to see that nothing changed meanwhile.
 * CACHE_DIR is an existing folder or NULL: do not remember. Failing to remember is no failure.
 */
MUST_USE enum err model_digest_file(const char *path, const struct gguf *file,
                                    const char *cache_dir, uint8_t out[MODEL_DIGEST_BYTES]);

#endif
