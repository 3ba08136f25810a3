/*
 * A coded object: one KV block, tail or terminal state as it lies on disk. A header with
 * checksums, then the coded planes; the whole is cut into runs that fill 16, 4 or 1 pages of the
 * store exactly.
 *
 * Pure functions of their arguments and of the caller's codec; any thread with a codec of its
 * own. What is decoded may be hostile: every refusal has a name.
 */
#ifndef TERN_STORE_CODED_OBJECT_H
#define TERN_STORE_CODED_OBJECT_H

#include "store/codec.h"
#include "store/record.h"

enum { OBJECT_HEADER_BYTES = 64 };

enum object_verdict {
    OBJECT_SOUND = 0,
    OBJECT_MISSING,       /* no run, or not all runs, are there */
    OBJECT_TRUNCATED,     /* shorter than its header, or than the header says */
    OBJECT_NO_MAGIC,      /* doesn't begin as an object */
    OBJECT_NEWER,         /* of a format version above this build's */
    OBJECT_HEADER_BAD,    /* unknown codec, set reserved bits, sizes that can't be */
    OBJECT_WRONG_SIZE,    /* raw size or element type differ from what is expected */
    OBJECT_DAMAGED,       /* the coded bytes fail their checksum */
    OBJECT_PADDING_BAD,   /* bytes behind the object are not zero */
    OBJECT_UNDECODABLE,   /* the planes don't decode */
    OBJECT_WRONG_IDENTITY /* the checksum over key, digest, header and raw bytes differs */
};

/* "sound", "missing", ...; static text. */
const char *coded_object_verdict_name(enum object_verdict verdict);

/* What an object is and belongs to; its checksum covers all of it. */
struct object_identity {
    struct record_object_key key;
    const uint8_t *state_digest; /* RECORD_DIGEST_BYTES, borrowed for the call */
};

/* The most that an object of RAW_BYTES takes, header and padding of its last run included. */
size_t coded_object_bound(size_t raw_bytes);

/*
 * Writes header, planes and zeros up to the end of the last run into DESTINATION, which holds
 * coded_object_bound(input->size_bytes) bytes. *coded_bytes is without the zeros. ERR_INVALID on
 * sizes that are not whole elements.
 */
MUST_USE enum err coded_object_encode(struct codec *codec, const struct object_identity *identity,
                                      const struct codec_input *input, uint8_t *destination,
                                      size_t *coded_bytes);

/*
 * Checks STORED_BYTES bytes (the runs, joined, with the zeros) and decodes them into
 * output->bytes, which are undefined unless the verdict is OBJECT_SOUND.
 */
MUST_USE enum object_verdict coded_object_decode(struct codec *codec,
                                                 const struct object_identity *identity,
                                                 const uint8_t *stored, size_t stored_bytes,
                                                 const struct codec_output *output);

/* What a header says, without a codec: for walks over objects whose layout is not known. */
struct object_info {
    const char *codec; /* its name; static text */
    enum codec_element element;
    uint64_t raw_bytes;
    uint64_t coded_bytes; /* with the header, without the zeros */
};

/* Checks the fields of a header alone. *out is set if the verdict is OBJECT_SOUND. */
MUST_USE enum object_verdict coded_object_inspect(const uint8_t *stored, size_t stored_bytes,
                                                  struct object_info *out);

/* --- runs ---------------------------------------------------------------------------- */

/* Bytes of value that fill 16, 4 and 1 pages of 4096, with the 16 bytes of their page header. */
enum {
    OBJECT_RUN_LARGE_BYTES = 16 * 4096 - 16,
    OBJECT_RUN_MEDIUM_BYTES = 4 * 4096 - 16,
    OBJECT_RUN_SMALL_BYTES = 4096 - 16,
};

/*
 * The size of the run that starts with LEFT bytes of the object to go, LEFT > 0: large as long as
 * a large one is filled or medium ones would take as many pages, then medium, then small. The
 * last run is padded with zeros.
 */
size_t coded_object_run_bytes(size_t left);

/* Runs, pages and padded bytes of an object of CODED_BYTES. */
struct object_extent {
    uint32_t runs;
    uint64_t pages;
    uint64_t stored_bytes;
};
struct object_extent coded_object_extent(size_t coded_bytes);

#endif
