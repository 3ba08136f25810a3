/*
 * The decoders of the state environment's records over any bytes. The first byte picks the kind
 * and whether the checksum is made right first, the second the length of the key.
 */
#include "store/record.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct input {
    const uint8_t *key;
    size_t key_len;
    uint8_t *bytes;
    size_t len;
};

static void make_checksum_right(const struct input *input) {
    if (input->len < 16) {
        return;
    }
    size_t covered = input->len - 16;
    uint8_t *joined = malloc(input->key_len + covered + 1);
    if (joined == NULL) {
        abort();
    }
    memcpy(joined, input->key, input->key_len);
    memcpy(joined + input->key_len, input->bytes, covered);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(joined, input->key_len + covered));
    memcpy(input->bytes + covered, canonical.digest, 16);
    free(joined);
}

/* What is accepted must encode to the very same bytes. */
static void expect_same(const uint8_t *encoded, const struct input *input) {
    if (memcmp(encoded, input->bytes, input->len) != 0) {
        abort();
    }
}

static void decode_keys(const uint8_t *key, size_t len) {
    struct record_head_key head;
    struct record_object_key object;
    struct record_owner_key owner;
    struct record_child_key child;
    uint32_t run;
    (void)!record_head_key_decode(key, len, &head);
    (void)!record_owner_key_decode(key, len, &owner);
    (void)!record_child_key_decode(key, len, &child);
    if (record_run_key_decode(key, len, &object, &run) == ERR_OK) {
        uint8_t encoded[RECORD_RUN_KEY_BYTES];
        record_run_key_encode(&object, run, encoded);
        if (memcmp(encoded, key, sizeof encoded) != 0) {
            abort();
        }
    }
}

static void decode(unsigned kind, const struct input *input) {
    uint8_t encoded[RECORD_HEAD_BYTES];
    struct record_head head;
    struct record_lineage lineage;
    struct record_format format;
    struct record_garbage garbage;
    struct record_quarantine quarantine;
    switch (kind) {
    case 0:
        if (record_head_decode(input->key, input->key_len, input->bytes, input->len, &head) ==
            ERR_OK) {
            record_head_encode(&head, encoded);
            expect_same(encoded, input);
        }
        break;
    case 1:
        if (record_lineage_decode(input->key, input->key_len, input->bytes, input->len, &lineage) ==
            ERR_OK) {
            record_lineage_encode(&lineage, encoded);
            expect_same(encoded, input);
        }
        break;
    case 2:
        if (record_format_decode(input->bytes, input->len, &format) == ERR_OK) {
            record_format_encode(&format, encoded);
            expect_same(encoded, input);
        }
        break;
    case 3:
        if (record_garbage_decode(input->key, input->key_len, input->bytes, input->len, &garbage) ==
            ERR_OK) {
            record_garbage_encode(&garbage, encoded);
            expect_same(encoded, input);
        }
        break;
    default:
        if (record_quarantine_decode(input->key, input->key_len, input->bytes, input->len,
                                     &quarantine) == ERR_OK) {
            record_quarantine_encode(input->key, &quarantine, encoded);
            expect_same(encoded, input);
        }
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes < 2) {
        return 0;
    }
    unsigned kind = data[0] & 7;
    size_t key_len = data[1] % (RECORD_KEY_BYTES_MAX + 8);
    key_len = key_len < bytes - 2 ? key_len : bytes - 2;
    struct input input = {.key = data + 2, .key_len = key_len, .len = bytes - 2 - key_len};
    input.bytes = malloc(input.len + 1);
    if (input.bytes == NULL) {
        abort();
    }
    memcpy(input.bytes, data + 2 + key_len, input.len);
    if (kind == 2) {
        input.key = (const uint8_t *)RECORD_FORMAT_KEY;
        input.key_len = strlen(RECORD_FORMAT_KEY);
    }
    if (data[0] & 0x80) {
        make_checksum_right(&input);
    }
    decode_keys(data + 2, key_len);
    decode(kind, &input);
    free(input.bytes);
    return 0;
}
