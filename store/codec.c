/*
 * Coded form. The raw array is cut into chunks of 256 KiB (the last may be shorter), each of
 * which follows the other without a gap:
 *
 *   offset  bytes  field
 *   0       4 * P  one u32 a plane: bits 0..30 coded bytes, bit 31 set if they are a zstd frame
 *   4 * P   ...    the planes, each as long as its entry says; without bit 31 exactly the chunk's
 *                  elements
 *
 * P is 1 for opaque bytes, 2 for F16 and BF16, 4 for F32. An element is rotated left by one bit,
 * and plane 0 takes its highest byte, plane 1 the next. So plane 0 is
 *   F32, BF16: the 8 exponent bits;   F16: the 5 exponent bits and the 3 highest mantissa bits;
 * and the sign, which is noise, is the lowest bit of the last plane beside mantissa bits.
 *
 * Chunks keep the scratch small and the split in the second-level cache, whatever the array's
 * size. Measured with bench_codec on normally distributed values, one core, GB/s of raw bytes in
 * and out: see docs/format.md.
 */
#include "store/codec.h"

#include "base/fault.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
    CHUNK_BYTES = 256 * 1024,
    PLANES_MAX = 4,
    /* Planes of exponents have few values and no repeats worth a match: what gains is the entropy
     * coder. Long matches only, from a tiny table, make level 1 twice as fast there and 2 %
     * smaller than with its own settings; levels 2 and 3 gain nothing. */
    ZSTD_LEVEL = 1,
    ZSTD_MATCH_BYTES_MIN = 7,
    ZSTD_TABLE_LOG = 6,
    GAIN_SHIFT = 6, /* a plane is compressed if it loses 1/64 of its bytes */
    /* A plane is first tried on one sample of this size; planes of mantissa fail there, at 1/16
     * of the time that the whole plane would take. */
    PROBE_BYTES = 4096,
};

static const uint32_t ENTRY_ZSTD = UINT32_C(1) << 31;

struct codec {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    uint8_t planes[CHUNK_BYTES];
    uint8_t probe[PROBE_BYTES];
};

static int set_parameter(struct codec *codec, ZSTD_cParameter name, int value) {
    return !ZSTD_isError(ZSTD_CCtx_setParameter(codec->compressor, name, value));
}

enum err codec_create(struct codec **out) {
    struct codec *codec = fault_fails("codec.alloc") ? NULL : calloc(1, sizeof *codec);
    if (codec == NULL) {
        return err_fail(ERR_NOMEM, "codec: no memory for %zu bytes of scratch", sizeof *codec);
    }
    codec->compressor = fault_fails("codec.alloc") ? NULL : ZSTD_createCCtx();
    codec->decompressor = fault_fails("codec.alloc") ? NULL : ZSTD_createDCtx();
    if (codec->compressor == NULL || codec->decompressor == NULL) {
        codec_destroy(codec);
        return err_fail(ERR_NOMEM, "codec: no memory for the zstd contexts");
    }
    if (!set_parameter(codec, ZSTD_c_compressionLevel, ZSTD_LEVEL) ||
        !set_parameter(codec, ZSTD_c_minMatch, ZSTD_MATCH_BYTES_MIN) ||
        !set_parameter(codec, ZSTD_c_hashLog, ZSTD_TABLE_LOG)) {
        codec_destroy(codec);
        return err_fail(ERR_UNSUPPORTED, "codec: zstd %s refuses the parameters",
                        ZSTD_versionString());
    }
    *out = codec;
    return ERR_OK;
}

void codec_destroy(struct codec *codec) {
    if (codec == NULL) {
        return;
    }
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->decompressor);
    free(codec);
}

size_t codec_memory_bytes(const struct codec *codec) {
    return sizeof *codec + ZSTD_sizeof_CCtx(codec->compressor) +
           ZSTD_sizeof_DCtx(codec->decompressor);
}

size_t codec_element_bytes(enum codec_element element) {
    switch (element) {
    case CODEC_BYTES:
        return 1;
    case CODEC_F32:
        return 4;
    case CODEC_F16:
    case CODEC_BF16:
        return 2;
    }
    return 0;
}

size_t codec_bound(size_t raw_bytes) {
    return raw_bytes + (raw_bytes / CHUNK_BYTES + 1) * (PLANES_MAX * sizeof(uint32_t));
}

static void put_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t get_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* --- planes: plain loops that the compiler turns into vector code ----------------------- */

static void split_32(const uint8_t *restrict raw, uint8_t *restrict planes, size_t count) {
    uint8_t *restrict plane_1 = planes + count;
    uint8_t *restrict plane_2 = planes + 2 * count;
    uint8_t *restrict plane_3 = planes + 3 * count;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, raw + 4 * i, sizeof bits);
        bits = bits << 1 | bits >> 31;
        planes[i] = (uint8_t)(bits >> 24);
        plane_1[i] = (uint8_t)(bits >> 16);
        plane_2[i] = (uint8_t)(bits >> 8);
        plane_3[i] = (uint8_t)bits;
    }
}

static void split_16(const uint8_t *restrict raw, uint8_t *restrict planes, size_t count) {
    uint8_t *restrict plane_1 = planes + count;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, raw + 2 * i, sizeof bits);
        bits = (uint16_t)(bits << 1 | bits >> 15);
        planes[i] = (uint8_t)(bits >> 8);
        plane_1[i] = (uint8_t)bits;
    }
}

static void merge_32(const uint8_t *restrict plane_0, const uint8_t *restrict plane_1,
                     const uint8_t *restrict plane_2, const uint8_t *restrict plane_3,
                     uint8_t *restrict raw, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)plane_0[i] << 24 | (uint32_t)plane_1[i] << 16 |
                        (uint32_t)plane_2[i] << 8 | plane_3[i];
        bits = bits >> 1 | bits << 31;
        memcpy(raw + 4 * i, &bits, sizeof bits);
    }
}

static void merge_16(const uint8_t *restrict plane_0, const uint8_t *restrict plane_1,
                     uint8_t *restrict raw, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t bits = (uint16_t)(plane_0[i] << 8 | plane_1[i]);
        bits = (uint16_t)(bits >> 1 | bits << 15);
        memcpy(raw + 2 * i, &bits, sizeof bits);
    }
}

/* --- encoding --------------------------------------------------------------------------- */

/* Compressed bytes of PLANE in DESTINATION, or 0 if it doesn't gain enough. */
static size_t compress_plane(struct codec *codec, const uint8_t *plane, size_t count,
                             uint8_t *destination, enum err *code) {
    if (count > 4 * PROBE_BYTES) {
        size_t room = PROBE_BYTES - (PROBE_BYTES >> GAIN_SHIFT);
        size_t probed =
            ZSTD_compress2(codec->compressor, codec->probe, room, plane + count / 2, PROBE_BYTES);
        if (ZSTD_isError(probed)) {
            return 0;
        }
    }
    size_t room = count - (count >> GAIN_SHIFT) - (count < 64);
    size_t coded = ZSTD_compress2(codec->compressor, destination, room, plane, count);
    if (fault_fails("codec.compress")) {
        *code = err_fail(ERR_NOMEM, "codec: zstd failed");
        return 0;
    }
    return ZSTD_isError(coded) ? 0 : coded; /* mostly for want of room: no gain */
}

static enum err encode_chunk(struct codec *codec, enum codec_element element, const uint8_t *raw,
                             size_t raw_bytes, uint8_t *destination, size_t *coded_bytes) {
    size_t plane_count = codec_element_bytes(element);
    size_t count = raw_bytes / plane_count;
    const uint8_t *planes = codec->planes;
    if (plane_count == 4) {
        split_32(raw, codec->planes, count);
    } else if (plane_count == 2) {
        split_16(raw, codec->planes, count);
    } else {
        planes = raw;
    }
    uint8_t *at = destination + 4 * plane_count;
    for (size_t i = 0; i < plane_count; i++) {
        enum err code = ERR_OK;
        size_t coded = compress_plane(codec, planes + i * count, count, at, &code);
        TRY(code);
        put_u32(destination + 4 * i, coded != 0 ? (uint32_t)coded | ENTRY_ZSTD : (uint32_t)count);
        if (coded == 0) {
            memcpy(at, planes + i * count, count);
            coded = count;
        }
        at += coded;
    }
    *coded_bytes = (size_t)(at - destination);
    return ERR_OK;
}

enum err codec_encode(struct codec *codec, const struct codec_input *input, uint8_t *destination,
                      size_t *coded_bytes) {
    size_t element_bytes = codec_element_bytes(input->element);
    if (element_bytes == 0 || input->size_bytes % element_bytes != 0) {
        return err_fail(ERR_INVALID, "codec: %zu bytes are no array of element type %d",
                        input->size_bytes, (int)input->element);
    }
    size_t done = 0;
    size_t used = 0;
    while (done < input->size_bytes) {
        size_t left = input->size_bytes - done;
        size_t chunk = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        size_t coded = 0;
        TRY(encode_chunk(codec, input->element, (const uint8_t *)input->bytes + done, chunk,
                         destination + used, &coded));
        done += chunk;
        used += coded;
    }
    assert(used <= codec_bound(input->size_bytes));
    *coded_bytes = used;
    return ERR_OK;
}

/* --- decoding --------------------------------------------------------------------------- */

/* Finds the COUNT bytes of a plane: in CODED itself, or decompressed into SCRATCH. */
static enum err open_plane(struct codec *codec, uint32_t entry, size_t count, const uint8_t *coded,
                           uint8_t *scratch, const uint8_t **plane) {
    size_t coded_bytes = entry & ~ENTRY_ZSTD;
    if ((entry & ENTRY_ZSTD) == 0) {
        if (coded_bytes != count) {
            return err_fail(ERR_FORMAT, "codec: a raw plane of %zu bytes, expected %zu",
                            coded_bytes, count);
        }
        *plane = coded;
        return ERR_OK;
    }
    size_t got = ZSTD_decompressDCtx(codec->decompressor, scratch, count, coded, coded_bytes);
    if (fault_fails("codec.decompress")) {
        return err_fail(ERR_NOMEM, "codec: zstd failed");
    }
    if (ZSTD_isError(got) || got != count) {
        return err_fail(ERR_FORMAT, "codec: a plane does not decompress to %zu bytes: %s", count,
                        ZSTD_isError(got) ? ZSTD_getErrorName(got) : "shorter");
    }
    *plane = scratch;
    return ERR_OK;
}

static enum err decode_chunk(struct codec *codec, enum codec_element element, const uint8_t *coded,
                             size_t coded_bytes, uint8_t *raw, size_t raw_bytes, size_t *used) {
    size_t plane_count = codec_element_bytes(element);
    size_t count = raw_bytes / plane_count;
    size_t at = 4 * plane_count;
    if (coded_bytes < at) {
        return err_fail(ERR_FORMAT, "codec: %zu bytes are left for a table of %zu", coded_bytes,
                        at);
    }
    const uint8_t *planes[PLANES_MAX] = {0};
    for (size_t i = 0; i < plane_count; i++) {
        uint32_t entry = get_u32(coded + 4 * i);
        if ((entry & ~ENTRY_ZSTD) > coded_bytes - at) {
            return err_fail(ERR_FORMAT, "codec: plane %zu of %u bytes, but %zu are left", i,
                            (unsigned)(entry & ~ENTRY_ZSTD), coded_bytes - at);
        }
        uint8_t *scratch = plane_count == 1 ? raw : codec->planes + i * count;
        TRY(open_plane(codec, entry, count, coded + at, scratch, &planes[i]));
        at += entry & ~ENTRY_ZSTD;
    }
    if (plane_count == 4) {
        merge_32(planes[0], planes[1], planes[2], planes[3], raw, count);
    } else if (plane_count == 2) {
        merge_16(planes[0], planes[1], raw, count);
    } else if (planes[0] != raw) {
        memcpy(raw, planes[0], count);
    }
    *used = at;
    return ERR_OK;
}

enum err codec_decode(struct codec *codec, const uint8_t *coded, size_t coded_bytes,
                      const struct codec_output *output) {
    size_t element_bytes = codec_element_bytes(output->element);
    if (element_bytes == 0 || output->size_bytes % element_bytes != 0) {
        return err_fail(ERR_FORMAT, "codec: %zu bytes are no array of element type %d",
                        output->size_bytes, (int)output->element);
    }
    size_t done = 0;
    size_t at = 0;
    while (done < output->size_bytes) {
        size_t left = output->size_bytes - done;
        size_t chunk = left < CHUNK_BYTES ? left : CHUNK_BYTES;
        size_t used = 0;
        TRY(decode_chunk(codec, output->element, coded + at, coded_bytes - at,
                         (uint8_t *)output->bytes + done, chunk, &used));
        done += chunk;
        at += used;
    }
    if (at != coded_bytes) {
        return err_fail(ERR_FORMAT, "codec: %zu bytes behind the last chunk", coded_bytes - at);
    }
    return ERR_OK;
}
