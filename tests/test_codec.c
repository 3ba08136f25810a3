#include "store/codec.h"

#include "base/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t seed;

static double uniform(void) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(seed >> 11) + 0.5) / 9007199254740992.0;
}

static void fill_normal(uint8_t *raw, size_t bytes, enum codec_element element) {
    size_t step = codec_element_bytes(element);
    for (size_t at = 0; at + step <= bytes; at += step) {
        float value = (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform()));
        uint16_t half = element == CODEC_F16 ? half_f32_to_f16(value) : half_f32_to_bf16(value);
        memcpy(raw + at, step == 4 ? (void *)&value : (void *)&half, step);
    }
}

/* Encodes, decodes, compares; the coded size. */
static size_t round_trip(struct codec *codec, enum codec_element element, const uint8_t *raw,
                         size_t bytes) {
    uint8_t *coded = malloc(codec_bound(bytes) + 1);
    uint8_t *back = malloc(bytes + 1);
    memset(back, 0xab, bytes + 1);
    coded[codec_bound(bytes)] = 0x5a;
    size_t coded_bytes = 0;
    struct codec_input input = {element, raw, bytes};
    assert_int_equal(codec_encode(codec, &input, coded, &coded_bytes), ERR_OK);
    assert_true(coded_bytes <= codec_bound(bytes));
    assert_int_equal(coded[codec_bound(bytes)], 0x5a);
    struct codec_output output = {element, back, bytes};
    assert_int_equal(codec_decode(codec, coded, coded_bytes, &output), ERR_OK);
    assert_memory_equal(raw, back, bytes);
    assert_int_equal(back[bytes], 0xab);
    free(coded);
    free(back);
    return coded_bytes;
}

static void test_codec_gives_back_every_size_and_type(void **state) {
    (void)state;
    struct codec *codec;
    assert_int_equal(codec_create(&codec), ERR_OK);
    static const size_t counts[] = {0, 1, 2, 3, 7, 63, 64, 65, 1000, 65535, 65536, 65537, 200000};
    uint8_t *raw = malloc(4 * 200000);
    for (enum codec_element element = CODEC_BYTES; element <= CODEC_BF16; element++) {
        for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
            size_t bytes = counts[i] * codec_element_bytes(element);
            for (size_t at = 0; at < bytes; at++) {
                raw[at] = (uint8_t)(uniform() * 256.0);
            }
            (void)round_trip(codec, element, raw, bytes);
            memset(raw, 0, bytes);
            size_t coded = round_trip(codec, element, raw, bytes);
            assert_true(bytes < 4096 || coded < bytes / 64);
        }
    }
    free(raw);
    codec_destroy(codec);
}

/* What the exponent plane must gain, with room for other versions of zstd. */
static void test_codec_gains_on_normal_values(void **state) {
    (void)state;
    static const double least[] = {0, 1.15, 1.12, 1.40};
    struct codec *codec;
    assert_int_equal(codec_create(&codec), ERR_OK);
    size_t bytes = 1 << 20;
    uint8_t *raw = malloc(bytes);
    for (enum codec_element element = CODEC_F32; element <= CODEC_BF16; element++) {
        fill_normal(raw, bytes, element);
        double ratio = (double)bytes / (double)round_trip(codec, element, raw, bytes);
        assert_true(ratio > least[element]);
    }
    free(raw);
    codec_destroy(codec);
}

static void test_codec_keeps_special_values(void **state) {
    (void)state;
    struct codec *codec;
    assert_int_equal(codec_create(&codec), ERR_OK);
    uint32_t words[] = {0,           0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00001u,
                        0xff812345u, 1,           0x80000001u, 0x00800000u, 0x7f7fffffu};
    (void)round_trip(codec, CODEC_F32, (const uint8_t *)words, sizeof words);
    (void)round_trip(codec, CODEC_F16, (const uint8_t *)words, sizeof words);
    (void)round_trip(codec, CODEC_BF16, (const uint8_t *)words, sizeof words);
    codec_destroy(codec);
}

static void test_codec_refuses_half_elements(void **state) {
    (void)state;
    struct codec *codec;
    uint8_t raw[7] = {0};
    uint8_t coded[64];
    size_t coded_bytes = 99;
    assert_int_equal(codec_create(&codec), ERR_OK);
    struct codec_input input = {CODEC_F32, raw, sizeof raw};
    assert_int_equal(codec_encode(codec, &input, coded, &coded_bytes), ERR_INVALID);
    assert_int_equal(coded_bytes, 99);
    struct codec_output output = {CODEC_F32, raw, sizeof raw};
    assert_int_equal(codec_decode(codec, coded, sizeof coded, &output), ERR_FORMAT);
    codec_destroy(codec);
}

/* Every truncation is refused, and every flipped byte is refused or changes no length. */
static void test_codec_is_safe_on_hostile_input(void **state) {
    (void)state;
    struct codec *codec;
    assert_int_equal(codec_create(&codec), ERR_OK);
    enum { BYTES = 4096 };
    uint8_t raw[BYTES];
    fill_normal(raw, BYTES, CODEC_BF16);
    size_t coded_bytes = 0;
    uint8_t *coded = malloc(codec_bound(BYTES));
    struct codec_input input = {CODEC_BF16, raw, BYTES};
    assert_int_equal(codec_encode(codec, &input, coded, &coded_bytes), ERR_OK);
    uint8_t back[BYTES];
    struct codec_output output = {CODEC_BF16, back, BYTES};
    for (size_t len = 0; len < coded_bytes; len++) {
        uint8_t *cut = malloc(len + 1);
        memcpy(cut, coded, len);
        assert_int_equal(codec_decode(codec, cut, len, &output), ERR_FORMAT);
        free(cut);
    }
    for (size_t at = 0; at < coded_bytes; at++) {
        for (int bit = 0; bit < 8; bit += 3) {
            coded[at] ^= (uint8_t)(1 << bit);
            enum err code = codec_decode(codec, coded, coded_bytes, &output);
            assert_true(code == ERR_OK || code == ERR_FORMAT);
            coded[at] ^= (uint8_t)(1 << bit);
        }
    }
    free(coded);
    codec_destroy(codec);
}

static void test_codec_fits_its_memory(void **state) {
    (void)state;
    struct codec *codec;
    assert_int_equal(codec_create(&codec), ERR_OK);
    uint8_t *raw = calloc(1, 3 << 20);
    fill_normal(raw, 3 << 20, CODEC_F32);
    (void)round_trip(codec, CODEC_F32, raw, 3 << 20);
    assert_true(codec_memory_bytes(codec) < 2 << 20);
    free(raw);
    codec_destroy(codec);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codec_gives_back_every_size_and_type),
        cmocka_unit_test(test_codec_gains_on_normal_values),
        cmocka_unit_test(test_codec_keeps_special_values),
        cmocka_unit_test(test_codec_refuses_half_elements),
        cmocka_unit_test(test_codec_is_safe_on_hostile_input),
        cmocka_unit_test(test_codec_fits_its_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
