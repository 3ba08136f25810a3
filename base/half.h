/*
 * Exact conversions between F32 and the 16-bit types. Widening is exact;
 * narrowing rounds to nearest, ties to even, overflows to infinity, keeps
 * denormals, and turns a NaN into a quiet one with its upper payload, as
 * VCVTPS2PH does. Integer arithmetic only, so no rounding mode matters.
 */
#ifndef TERN_BASE_HALF_H
#define TERN_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_bits_of_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float half_f32_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float half_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0x1f) {
        /* A signalling NaN comes back quiet, as the processor's conversion does. */
        return half_f32_of_bits(sign | 0x7f800000u | (fraction ? 0x400000u : 0u) | fraction << 13);
    }
    if (exponent == 0) {
        if (fraction == 0) {
            return half_f32_of_bits(sign);
        }
        exponent = 1;
        while ((fraction & 0x400u) == 0) {
            fraction <<= 1;
            exponent--; /* may wrap below zero; the sum with 112 below is right again */
        }
        fraction &= 0x3ffu;
    }
    return half_f32_of_bits(sign | ((exponent + 112u) << 23) | fraction << 13);
}

static inline uint16_t half_f32_to_f16(float value) {
    uint32_t bits = half_bits_of_f32(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    }
    if (magnitude >= 0x477ff000u) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: a denormal, or zero */
        if (magnitude < 0x33000000u) {
            return (uint16_t)sign;
        }
        uint32_t shift = 126u - (magnitude >> 23);
        uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
        uint32_t rest = fraction & ((1u << shift) - 1u);
        uint32_t half_way = 1u << (shift - 1u);
        uint32_t result = fraction >> shift;
        result += rest > half_way || (rest == half_way && (result & 1u));
        return (uint16_t)(sign | result);
    }
    uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return (uint16_t)(sign | rounded >> 13);
}

static inline float half_bf16_to_f32(uint16_t half) {
    return half_f32_of_bits((uint32_t)half << 16);
}

static inline uint16_t half_f32_to_bf16(float value) {
    uint32_t bits = half_bits_of_f32(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
