/*
 * The object decoder over any bytes. The first byte picks element type and raw size. What lies
 * behind the header is also given to the codec itself, past the checksums.
 */
#include "store/coded_object.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { RAW_MAX = 1024 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static struct codec *codec;
    if (codec == NULL && codec_create(&codec) != ERR_OK) {
        abort();
    }
    if (bytes == 0) {
        return 0;
    }
    enum codec_element element = (enum codec_element)(data[0] & 3);
    size_t raw_bytes = (size_t)(data[0] >> 2) * 4 + (data[0] & 0x80 ? 512 : 0);
    size_t stored_bytes = bytes - 1;
    uint8_t *stored = malloc(stored_bytes + (stored_bytes == 0));
    uint8_t *raw = malloc(RAW_MAX);
    if (stored == NULL || raw == NULL || raw_bytes > RAW_MAX) {
        abort();
    }
    memcpy(stored, data + 1, stored_bytes);
    uint8_t digest[RECORD_DIGEST_BYTES] = {0};
    struct object_identity identity = {.key = {RECORD_BLOCK, 1, 1}, .state_digest = digest};
    struct codec_output output = {element, raw, raw_bytes};
    if (coded_object_decode(codec, &identity, stored, stored_bytes, &output) == OBJECT_SOUND) {
        /* What is sound encodes to something that is sound. */
        uint8_t *again = malloc(coded_object_bound(raw_bytes));
        uint8_t *back = malloc(RAW_MAX);
        size_t coded_bytes = 0;
        struct codec_input input = {element, raw, raw_bytes};
        struct codec_output second = {element, back, raw_bytes};
        if (again == NULL || back == NULL ||
            coded_object_encode(codec, &identity, &input, again, &coded_bytes) != ERR_OK ||
            coded_object_decode(codec, &identity, again,
                                coded_object_extent(coded_bytes).stored_bytes,
                                &second) != OBJECT_SOUND ||
            memcmp(raw, back, raw_bytes) != 0) {
            abort();
        }
        free(again);
        free(back);
    }
    /* The planes alone, which the checksum keeps a fuzzer from. */
    if (stored_bytes > OBJECT_HEADER_BYTES) {
        size_t planes = stored_bytes - OBJECT_HEADER_BYTES;
        enum err code = codec_decode(codec, stored + OBJECT_HEADER_BYTES, planes, &output);
        if (code != ERR_OK && code != ERR_FORMAT) {
            abort();
        }
    }
    free(stored);
    free(raw);
    return 0;
}
