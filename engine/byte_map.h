/*
 * The byte map of byte-level BPE: in a vocabulary's text every character stands for one byte.
 * 21-7E, A1-AC and AE-FF stand for themselves as the code point of the same number; the other
 * 68 bytes, in rising order, are U+0100 to U+0143. No state, any thread.
 */
#ifndef TERN_ENGINE_BYTE_MAP_H
#define TERN_ENGINE_BYTE_MAP_H

#include <stddef.h>
#include <stdint.h>

/*
 * Writes the bytes that TEXT stands for to OUT (room for LEN bytes) and their number to
 * *out_len; returns 0 when TEXT is not UTF-8 or holds a character outside the map. Different
 * texts stand for different bytes.
 */
int byte_map_decode(const char *text, size_t len, char *out, size_t *out_len);

#endif
