/*
 * Prints ratio and speed of the codec on normally distributed values, for each element type:
 * bench_codec [MiB]. Not a test; its figures are quoted in docs/format.md.
 */
#include "base/half.h"
#include "base/now.h"
#include "store/codec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed = 1;

static double uniform(void) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return ((double)(seed >> 11) + 0.5) / 9007199254740992.0;
}

static float normal(void) {
    return (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

static void fill(uint8_t *raw, size_t bytes, enum codec_element element) {
    size_t step = codec_element_bytes(element);
    for (size_t at = 0; at < bytes; at += step) {
        float value = normal();
        uint16_t half = element == CODEC_F16 ? half_f32_to_f16(value) : half_f32_to_bf16(value);
        if (step == 4) {
            memcpy(raw + at, &value, 4);
        } else {
            memcpy(raw + at, &half, step);
        }
    }
}

int main(int argc, char **argv) {
    size_t bytes = (size_t)(argc > 1 ? atoi(argv[1]) : 64) << 20;
    static const char *const names[] = {"bytes", "f32", "f16", "bf16"};
    uint8_t *raw = malloc(bytes);
    uint8_t *back = malloc(bytes);
    uint8_t *coded = malloc(codec_bound(bytes));
    struct codec *codec;
    if (raw == NULL || back == NULL || coded == NULL || codec_create(&codec) != ERR_OK) {
        fprintf(stderr, "bench_codec: no memory\n");
        return 1;
    }
    memset(back, 1, bytes);
    memset(coded, 1, codec_bound(bytes));
    for (enum codec_element element = CODEC_F32; element <= CODEC_BF16; element++) {
        fill(raw, bytes, element);
        double in = 1e9;
        double out = 1e9;
        size_t coded_bytes = 0;
        for (int round = 0; round < 5; round++) {
            uint64_t start = now_monotonic_ns();
            struct codec_input input = {element, raw, bytes};
            if (codec_encode(codec, &input, coded, &coded_bytes) != ERR_OK) {
                return 1;
            }
            uint64_t middle = now_monotonic_ns();
            struct codec_output output = {element, back, bytes};
            if (codec_decode(codec, coded, coded_bytes, &output) != ERR_OK) {
                return 1;
            }
            uint64_t end = now_monotonic_ns();
            if (memcmp(raw, back, bytes) != 0) {
                return 1;
            }
            in = fmin(in, (double)(middle - start));
            out = fmin(out, (double)(end - middle));
        }
        printf("%-5s %.3fx  in %.2f GB/s  out %.2f GB/s\n", names[element],
               (double)bytes / (double)coded_bytes, (double)bytes / in, (double)bytes / out);
    }
    printf("memory of one codec: %zu bytes\n", codec_memory_bytes(codec));
    codec_destroy(codec);
    free(raw);
    free(back);
    free(coded);
    return 0;
}
