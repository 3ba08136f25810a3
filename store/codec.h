/*
 * The lossless codec of stored arrays: floating-point elements are split into byte planes with
 * the exponent bits together, and every plane that gains at least 1/64 is compressed with zstd.
 *
 * A struct codec holds the contexts and scratch of one worker: calls on one codec must not
 * overlap; different codecs are independent. The codec knows nothing of keys, checksums or files;
 * what it decodes may be hostile.
 */
#ifndef TERN_STORE_CODEC_H
#define TERN_STORE_CODEC_H

#include "base/err.h"

/* Values are stored in object headers. */
enum codec_element {
    CODEC_BYTES = 0, /* opaque */
    CODEC_F32 = 1,
    CODEC_F16 = 2,
    CODEC_BF16 = 3,
};

enum { CODEC_ELEMENT_COUNT = CODEC_BF16 + 1 };

struct codec;

/* ERR_NOMEM. Takes about 1 MiB, whatever the arrays are; codec_memory_bytes says how much. */
MUST_USE enum err codec_create(struct codec **out);
void codec_destroy(struct codec *codec);
size_t codec_memory_bytes(const struct codec *codec);

/* Bytes of one element; 0 on an unknown type. */
size_t codec_element_bytes(enum codec_element element);

/* The most that encoding RAW_BYTES can take. */
size_t codec_bound(size_t raw_bytes);

struct codec_input {
    enum codec_element element;
    const void *bytes;
    size_t size_bytes; /* a multiple of the element's bytes, else ERR_INVALID */
};

/* Encodes into DESTINATION, which holds at least codec_bound(size) bytes; *coded_bytes is what was
 * used. The same input always gives the same bytes with the same zstd. */
MUST_USE enum err codec_encode(struct codec *codec, const struct codec_input *input,
                               uint8_t *destination, size_t *coded_bytes);

struct codec_output {
    enum codec_element element;
    void *bytes;
    size_t size_bytes; /* exactly what was encoded */
};

/* Decodes CODED into output->bytes, which are undefined after a failure. ERR_FORMAT unless the
 * coded bytes are used up exactly and give exactly size_bytes. */
MUST_USE enum err codec_decode(struct codec *codec, const uint8_t *coded, size_t coded_bytes,
                               const struct codec_output *output);

#endif
