/*
 * Header, 64 bytes; then the coded planes as codec.c lays them out.
 *
 *   offset  bytes  field
 *   0       u32    magic "TNOB"
 *   4       u16    version, 1
 *   6       u8     codec, 1 (byte planes and zstd)
 *   7       u8     element type, enum codec_element
 *   8       u64    raw bytes
 *   16      u64    coded bytes, this header included
 *   24      u64    XXH3-64 of the coded planes
 *   32      16     zeros (sealing)
 *   48      16     XXH3-128, canonical (high half first, big-endian), over part u8, lineage u64,
 *                  index u64, the state digest, bytes 0 to 47 and the raw bytes
 *
 * The XXH3-64 is there to refuse damage before zstd sees it; identity and exactness rest on the
 * XXH3-128, whose input is what the reader asked for, not what the object says it is.
 */
#include "store/coded_object.h"

#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* for a hash state on the stack */
#include <xxhash.h>

enum {
    VERSION = 1,
    CODEC_PLANES = 1,
    ZEROS_AT = 32,
    CHECKSUM_AT = 48,
    CHECKSUM_BYTES = 16,
};

static const uint32_t MAGIC = 0x424f4e54; /* TNOB */

_Static_assert(CHECKSUM_AT + CHECKSUM_BYTES == OBJECT_HEADER_BYTES, "object header");

static void put_u64(uint8_t *at, uint64_t value) {
    for (int i = 0; i < 8; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t get_u64(const uint8_t *at) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | at[i];
    }
    return value;
}

const char *coded_object_verdict_name(enum object_verdict verdict) {
    static const char *const names[] = {
        [OBJECT_SOUND] = "sound",
        [OBJECT_MISSING] = "missing",
        [OBJECT_TRUNCATED] = "truncated",
        [OBJECT_NO_MAGIC] = "no object",
        [OBJECT_NEWER] = "newer format version",
        [OBJECT_HEADER_BAD] = "bad header",
        [OBJECT_WRONG_SIZE] = "wrong size or element type",
        [OBJECT_DAMAGED] = "coded bytes fail their checksum",
        [OBJECT_PADDING_BAD] = "padding is not zero",
        [OBJECT_UNDECODABLE] = "planes do not decode",
        [OBJECT_WRONG_IDENTITY] = "checksum over key, digest and content differs",
    };
    return (unsigned)verdict < ARRAY_LEN(names) ? names[verdict] : "unknown";
}

/* --- runs ------------------------------------------------------------------------------ */

size_t coded_object_run_bytes(size_t left) {
    assert(left > 0);
    /* With three medium and three small runs filled, more would take 16 pages in any case. */
    if (left > 3 * OBJECT_RUN_MEDIUM_BYTES + 3 * OBJECT_RUN_SMALL_BYTES) {
        return OBJECT_RUN_LARGE_BYTES;
    }
    return left > 3 * OBJECT_RUN_SMALL_BYTES ? OBJECT_RUN_MEDIUM_BYTES : OBJECT_RUN_SMALL_BYTES;
}

struct object_extent coded_object_extent(size_t coded_bytes) {
    struct object_extent extent = {0};
    size_t large = coded_bytes / OBJECT_RUN_LARGE_BYTES;
    extent.runs = (uint32_t)large;
    extent.stored_bytes = large * OBJECT_RUN_LARGE_BYTES;
    while (extent.stored_bytes < coded_bytes) {
        extent.stored_bytes += coded_object_run_bytes(coded_bytes - extent.stored_bytes);
        extent.runs++;
    }
    extent.pages = (extent.stored_bytes + (uint64_t)extent.runs * 16) / 4096;
    return extent;
}

size_t coded_object_bound(size_t raw_bytes) {
    return OBJECT_HEADER_BYTES + codec_bound(raw_bytes) + OBJECT_RUN_LARGE_BYTES;
}

/* --- encoding -------------------------------------------------------------------------- */

static void identity_checksum(const struct object_identity *identity, const uint8_t *header,
                              const void *raw, size_t raw_bytes, uint8_t out[CHECKSUM_BYTES]) {
    uint8_t key[RECORD_IDENTITY_BYTES];
    record_object_identity(&identity->key, key);
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    XXH3_128bits_update(&state, key, sizeof key);
    XXH3_128bits_update(&state, identity->state_digest, RECORD_DIGEST_BYTES);
    XXH3_128bits_update(&state, header, CHECKSUM_AT);
    XXH3_128bits_update(&state, raw, raw_bytes);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(out, canonical.digest, CHECKSUM_BYTES);
}

enum err coded_object_encode(struct codec *codec, const struct object_identity *identity,
                             const struct codec_input *input, uint8_t *destination,
                             size_t *coded_bytes) {
    size_t planes_bytes;
    TRY(codec_encode(codec, input, destination + OBJECT_HEADER_BYTES, &planes_bytes));
    size_t total = OBJECT_HEADER_BYTES + planes_bytes;
    uint8_t *header = destination;
    memset(header, 0, OBJECT_HEADER_BYTES);
    put_u64(header, MAGIC | (uint64_t)VERSION << 32 | (uint64_t)CODEC_PLANES << 48 |
                        (uint64_t)input->element << 56);
    put_u64(header + 8, input->size_bytes);
    put_u64(header + 16, total);
    put_u64(header + 24, XXH3_64bits(destination + OBJECT_HEADER_BYTES, planes_bytes));
    identity_checksum(identity, header, input->bytes, input->size_bytes, header + CHECKSUM_AT);
    struct object_extent extent = coded_object_extent(total);
    assert(extent.stored_bytes <= coded_object_bound(input->size_bytes));
    memset(destination + total, 0, extent.stored_bytes - total);
    *coded_bytes = total;
    return ERR_OK;
}

/* --- decoding -------------------------------------------------------------------------- */

enum object_verdict coded_object_inspect(const uint8_t *stored, size_t stored_bytes,
                                         struct object_info *out) {
    if (stored_bytes < OBJECT_HEADER_BYTES) {
        return OBJECT_TRUNCATED;
    }
    uint64_t first = get_u64(stored);
    if ((uint32_t)first != MAGIC) {
        return OBJECT_NO_MAGIC;
    }
    unsigned version = (unsigned)(first >> 32 & 0xffff);
    if (version > VERSION) {
        return OBJECT_NEWER;
    }
    struct object_info info = {
        .codec = "planes",
        .element = (enum codec_element)(first >> 56),
        .raw_bytes = get_u64(stored + 8),
        .coded_bytes = get_u64(stored + 16),
    };
    if (version == 0 || (first >> 48 & 0xff) != CODEC_PLANES ||
        codec_element_bytes(info.element) == 0 || get_u64(stored + ZEROS_AT) != 0 ||
        get_u64(stored + ZEROS_AT + 8) != 0 || info.coded_bytes < OBJECT_HEADER_BYTES ||
        info.raw_bytes % codec_element_bytes(info.element) != 0) {
        return OBJECT_HEADER_BAD;
    }
    *out = info;
    return OBJECT_SOUND;
}

enum object_verdict coded_object_decode(struct codec *codec, const struct object_identity *identity,
                                        const uint8_t *stored, size_t stored_bytes,
                                        const struct codec_output *output) {
    struct object_info info;
    enum object_verdict verdict = coded_object_inspect(stored, stored_bytes, &info);
    if (verdict != OBJECT_SOUND) {
        return verdict;
    }
    if (info.coded_bytes > stored_bytes) {
        return OBJECT_TRUNCATED;
    }
    if (info.element != output->element || info.raw_bytes != output->size_bytes) {
        return OBJECT_WRONG_SIZE;
    }
    size_t coded_bytes = (size_t)info.coded_bytes;
    if (coded_object_extent(coded_bytes).stored_bytes != stored_bytes) {
        return OBJECT_PADDING_BAD;
    }
    for (size_t i = coded_bytes; i < stored_bytes; i++) {
        if (stored[i] != 0) {
            return OBJECT_PADDING_BAD;
        }
    }
    const uint8_t *planes = stored + OBJECT_HEADER_BYTES;
    size_t planes_bytes = coded_bytes - OBJECT_HEADER_BYTES;
    if (XXH3_64bits(planes, planes_bytes) != get_u64(stored + 24)) {
        return OBJECT_DAMAGED;
    }
    if (codec_decode(codec, planes, planes_bytes, output) != ERR_OK) {
        return OBJECT_UNDECODABLE;
    }
    uint8_t expected[CHECKSUM_BYTES];
    identity_checksum(identity, stored, output->bytes, output->size_bytes, expected);
    return memcmp(expected, stored + CHECKSUM_AT, CHECKSUM_BYTES) == 0 ? OBJECT_SOUND
                                                                       : OBJECT_WRONG_IDENTITY;
}
