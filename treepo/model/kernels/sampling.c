/* Sampling from rows of logits in float32 or bfloat16, in two passes over memory and without a copy of them.

engine/sampling.py has the same in torch. */

#include "vectors.h"

#define LOWEST -127.0f /* e^x is 0 below 2^-127 */
#define CHUNK 2048     /* numbers whose sum is kept */

typedef struct {
    const float *wide;       /* the row, in this type */
    const uint16_t *narrow;  /* or in this one, bfloat16 */
    long size;
    float temperature;
} Row;

/* Numbers i..i + LANES - 1 of a row, divided by the temperature; -inf past its end. */
static inline vec load(const Row *row, long i) {
    vec x;
    if (i + LANES <= row->size)
        x = row->wide ? *(const vec *)(row->wide + i) : widen(row->narrow + i);
    else {
        float rest[LANES];
        for (int j = 0; j < LANES; j++) {
            uint32_t bits = 0xff800000;
            if (i + j < row->size && row->wide) memcpy(&bits, row->wide + i + j, sizeof bits);
            if (i + j < row->size && !row->wide) bits = (uint32_t)row->narrow[i + j] << 16;
            memcpy(rest + j, &bits, sizeof bits);
        }
        x = *(vec *)rest;
    }
    return row->temperature == 1 ? x : x / splat(row->temperature);
}

/* The largest number of a row, NaN if any is none. */
static float largest(const Row *row) {
    vec most = splat(-INFINITY);
    ivec is_nan = {0};
    for (long i = 0; i < row->size; i += LANES) {
        vec x = load(row, i);
        is_nan |= x != x;
        most = larger(most, x);
    }
    float top = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        if (is_nan[j]) return NAN;
        top = most[j] > top ? most[j] : top;
    }
    return top;
}

static long first_equal(const Row *row, float wanted) {
    for (long i = 0; i < row->size; i += LANES) {
        vec x = load(row, i);
        for (int j = 0; j < LANES; j++)
            if (x[j] == wanted) return i + j;
    }
    return 0;
}

/* The first token at which the sum of e^(x - top) exceeds number x their total, which is put into *total. */
static long invert(const Row *row, float top, double number, double *total, double *sums) {
    const long num_chunks = (row->size + CHUNK - 1) / CHUNK;
    *total = 0;
    for (long c = 0; c < num_chunks; c++) {
        vec sum = splat(0);
        for (long i = c * CHUNK; i < (c + 1) * CHUNK && i < row->size; i += LANES)
            sum += exponential(load(row, i) - splat(top), LOWEST);
        for (int j = 0; j < LANES; j++) *total += sum[j];
        sums[c] = *total;
    }
    const double threshold = number * *total;
    long c = 0, last = 0;
    while (c + 1 < num_chunks && sums[c] <= threshold) c++;
    double passed = c > 0 ? sums[c - 1] : 0;
    for (long i = c * CHUNK; i < (c + 1) * CHUNK && i < row->size; i += LANES) {
        vec weights = exponential(load(row, i) - splat(top), LOWEST);
        for (int j = 0; j < LANES; j++) {
            if (weights[j] > 0) last = i + j;
            if ((passed += weights[j]) > threshold) return i + j;
        }
    }
    return last; /* the sum of the chunk came out a little smaller number by number */
}

/* tokens, logprobs [S]: sample i is of row rows[i] of logits [M, V], at a number in [0, 1) and a temperature; 0: the
   likeliest token, at temperature 1. One of logits and bfloat16_logits is null. scratch: V / CHUNK + 1 numbers per
   sample. A row whose numbers are not finite has a log-probability that is not. */
void sample(long S, long V, const float *logits, const uint16_t *bfloat16_logits, const int64_t *rows,
            const float *temperatures, const double *numbers, int32_t *tokens, float *logprobs, double *scratch) {
    #pragma omp parallel for if (S > 1)
    for (long i = 0; i < S; i++) {
        const int is_greedy = temperatures[i] == 0;
        const Row row = {logits ? logits + rows[i] * V : 0, logits ? 0 : bfloat16_logits + rows[i] * V, V,
                         is_greedy ? 1 : temperatures[i]};
        const float top = largest(&row);
        tokens[i] = 0;
        logprobs[i] = NAN;
        if (!(top > -INFINITY && top < INFINITY)) continue;
        double total;
        long token = invert(&row, top, numbers[i], &total, scratch + i * (V / CHUNK + 1));
        if (is_greedy) token = first_equal(&row, top);
        tokens[i] = token;
        logprobs[i] = load(&row, token)[0] - top - log(total);
    }
}
