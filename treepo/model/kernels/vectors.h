/* Vectors as wide as the processor has them, their exponential, and small matrix products. */

#ifdef __AVX__
#include <immintrin.h>
#endif
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#define ROWS 12
#else
#define LANES 8
#define ROWS 6
#endif
#define COLUMNS (2 * LANES)

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

/* e^x for x <= 0, to 2e-7: 2^n times the Taylor polynomial of the rest; 0 below 2^-126, so also at -infinity. */
static inline vec exponential(vec x) {
    vec t = larger(x * 1.44269504088896341f, splat(-127.0f));
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

/* out [COUNT, WIDE vectors] (+)= a [COUNT, depth] b [depth, WIDE vectors]; a has any strides. */
#define PRODUCT(COUNT, WIDE)                                                                                     \
    static inline void product##COUNT##x##WIDE(long depth, const float *a, long a_row, long a_column,             \
                                               const float *b, long b_row, float *out, long out_row, int add) {   \
        vec sum[COUNT][WIDE];                                                                                     \
        for (int r = 0; r < COUNT; r++)                                                                           \
            for (int j = 0; j < WIDE; j++)                                                                        \
                sum[r][j] = add ? *(const vec *)(out + r * out_row + j * LANES) : splat(0);                       \
        for (long d = 0; d < depth; d++) {                                                                        \
            vec x[WIDE];                                                                                          \
            for (int j = 0; j < WIDE; j++) x[j] = *(const vec *)(b + d * b_row + j * LANES);                      \
            for (int r = 0; r < COUNT; r++)                                                                       \
                for (int j = 0; j < WIDE; j++) sum[r][j] += a[r * a_row + d * a_column] * x[j];                   \
        }                                                                                                         \
        for (int r = 0; r < COUNT; r++)                                                                           \
            for (int j = 0; j < WIDE; j++) *(vec *)(out + r * out_row + j * LANES) = sum[r][j];                   \
    }
#define PRODUCTS(COUNT) PRODUCT(COUNT, 2) PRODUCT(COUNT, 1)
#if ROWS == 12
PRODUCTS(12)
#endif
PRODUCTS(6)
PRODUCTS(4)
PRODUCTS(2)
PRODUCTS(1)

/* out [rows, columns] (+)= a [rows, depth] b [depth, columns]; columns: a multiple of LANES. */
static void multiply(int rows, int columns, long depth, const float *a, long a_row, long a_column, const float *b,
                     long b_row, float *out, long out_row, int add) {
    for (int c = 0; c < columns; c += COLUMNS) {
        const int wide = c + COLUMNS <= columns;
        int r = 0;
#define STRIPE(COUNT)                                                                                            \
    for (; r + COUNT <= rows; r += COUNT)                                                                         \
        (wide ? product##COUNT##x2 : product##COUNT##x1)(depth, a + r * a_row, a_row, a_column, b + c, b_row,      \
                                                         out + r * out_row + c, out_row, add);
#if ROWS == 12
        STRIPE(12)
#endif
        STRIPE(6)
        STRIPE(4)
        STRIPE(2)
        STRIPE(1)
    }
}
