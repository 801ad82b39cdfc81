/* Vectors of LANES floats, as wide as the processor has them unless the file that includes this says otherwise. */

#ifdef __AVX__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef LANES
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

static inline vec splat(float x) { return x - (vec){0}; }

static inline vec larger(vec x, vec y) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)x, (__m256)y);
#else
    ivec mask = x > y;
    return (vec)((mask & (ivec)x) | (~mask & (ivec)y));
#endif
}

/* e^x for x <= 0, to 2e-7: 2^n times the Taylor polynomial of the rest. It falls no lower than 2^lowest, which is 0 for
   -127. */
static inline vec exponential(vec x, float lowest) {
    vec t = larger(x * 1.44269504088896341f, splat(lowest));
    vec rounder = splat(12582912.0f); /* 1.5 x 2^23: adding it rounds to a whole number */
    vec n = (t + rounder) - rounder;
    vec f = (t - n) * 0.693147180559945309f;
    vec p = splat(1.0f / 720);
    p = p * f + 1.0f / 120;
    p = p * f + 1.0f / 24;
    p = p * f + 1.0f / 6;
    p = p * f + 0.5f;
    p = p * f + 1.0f;
    p = p * f + 1.0f;
    ivec bits = (__builtin_convertvector(n, ivec) + 127) << 23;
    vec power;
    memcpy(&power, &bits, sizeof bits);
    return p * power;
}

/* LANES bfloat16 numbers, each the upper half of a float32. */
typedef uint16_t half_vec __attribute__((vector_size(LANES * 2), aligned(2)));
typedef uint32_t bits_vec __attribute__((vector_size(LANES * 4)));

static inline vec widen(const uint16_t *x) {
    return (vec)(__builtin_convertvector(*(const half_vec *)x, bits_vec) << 16);
}

/* To the nearest, the even one of two; what is not a number stays none. */
static inline void narrow(vec x, uint16_t *to) {
    bits_vec bits = (bits_vec)x, is_nan = (bits_vec)(x != x);
    bits += 0x7fff + (bits >> 16 & 1);
    *(half_vec *)to = __builtin_convertvector(((bits & ~is_nan) | (0x7fc00000 & is_nan)) >> 16, half_vec);
}
