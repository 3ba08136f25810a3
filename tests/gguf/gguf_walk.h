/* Reads everything that an open GGUF hands out, as its users would, only more of it. */
#ifndef TERN_TESTS_GGUF_WALK_H
#define TERN_TESTS_GGUF_WALK_H

#include "engine/gguf.h"

/*
 * Gets every key by every getter, every element of every array, and the first and last byte of
 * every tensor. Aborts when a pointer leads out of the file, a key or tensor is not found by its
 * own name, or a refusal has no message. Returns a sum over the bytes, so that no read is dropped.
 */
uint64_t gguf_walk(const struct gguf *file);

#endif
