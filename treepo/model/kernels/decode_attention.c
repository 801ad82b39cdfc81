/* Attention of single queries over keys and values in blocks of 8 tokens, and what lies between a decoder's matrix
products, float32.

engine/torch/attention.py and TorchOperations in model/forward.py have the same in torch.

Letters: N queries, H query heads, G key-value heads, D head size (a multiple of 8), E extents per row.
keys [blocks, G, D, 8], values [blocks, G, 8, D]: slot s is lane s % 8 of block s / 8.
A row of the table lists what a sequence holds as extents (first slot, number of slots), none across a block's end. */

#define LANES 8 /* numbers in a vector: the slots of a block, whatever the processor has */
#include "vectors.h"

#define BLOCK LANES
#define LOWEST -126.0f /* weights do not fall below 2^-126 */

static inline float sum(vec x) { return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7])); }

static inline float largest(vec x) {
    float m = x[0];
    for (int i = 1; i < LANES; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* Scores of COUNT query heads against the 8 keys of one block; four sums per head, so that no addition waits. */
#define SCORES(COUNT)                                                                                            \
    static inline void scores##COUNT(const float *q, const float *k, int D, float *s, long stride) {             \
        vec a[COUNT][4];                                                                                         \
        for (int r = 0; r < COUNT; r++)                                                                          \
            for (int j = 0; j < 4; j++) a[r][j] = splat(0);                                                      \
        for (int d = 0; d < D; d += 4)                                                                           \
            for (int j = 0; j < 4; j++) {                                                                        \
                vec key = *(const vec *)(k + (d + j) * BLOCK);                                                   \
                for (int r = 0; r < COUNT; r++) a[r][j] += splat(q[r * D + d + j]) * key;                        \
            }                                                                                                    \
        for (int r = 0; r < COUNT; r++) *(vec *)(s + r * stride) = (a[r][0] + a[r][1]) + (a[r][2] + a[r][3]);    \
    }
SCORES(1)
SCORES(2)
SCORES(4)

#define TILE 16

/* Sizes of one call: E x 8 lanes per row, H x that many scores. */
typedef struct {
    int H, G, D;
    long E;
} Sizes;

/* One query on its way along its extents: q [H, D] scaled; s [H, E, 8] its scores, then its weights; out [H, D].
   len: slots it sees, the first `hidden` of which lie before its window; seen: those passed so far. */
typedef struct {
    const int32_t *starts, *counts;
    float *q, *s, *out;
    int len, hidden, seen;
} Query;

/* The lanes of extent e that a query sees; returns the extent's block and moves on. */
static inline long visible(Query *query, int e, int *low, int *high) {
    int count = query->counts[e], rest = query->len - query->seen, hidden = query->hidden - query->seen;
    *low = query->starts[e] % BLOCK;
    *high = *low + (count < rest ? count : rest);
    if (hidden > 0) *low += hidden < count ? hidden : count;
    query->seen += count;
    return query->starts[e] / BLOCK;
}

static inline void prefetch(const float *blocks, const Query *query, int e, long size) {
    if (query->seen < query->len)
        for (long i = 0; i < size; i += 16) __builtin_prefetch(blocks + query->starts[e] / BLOCK * size + i);
}

/* Scores of a query for extent e, -inf for lanes that it does not see. */
static void score(const Sizes *z, const float *keys, Query *query, int e) {
    const int D = z->D, R = z->H / z->G;
    const long stride = z->E * BLOCK;
    int low, high;
    const float *k = keys + visible(query, e, &low, &high) * z->G * D * BLOCK;
    float *s = query->s + e * BLOCK;
    for (int g = 0; g < z->G; g++, k += D * BLOCK) {
        int h = g * R, end = h + R;
        for (; h + 4 <= end; h += 4) scores4(query->q + h * D, k, D, s + h * stride, stride);
        for (; h + 2 <= end; h += 2) scores2(query->q + h * D, k, D, s + h * stride, stride);
        for (; h < end; h++) scores1(query->q + h * D, k, D, s + h * stride, stride);
    }
    if (low > 0 || high < BLOCK)
        for (int h = 0; h < z->H; h++)
            for (int i = 0; i < BLOCK; i++)
                if (i < low || i >= high) s[h * stride + i] = -INFINITY;
}

static inline vec rotated(vec x, int by) {
    vec y;
    for (int i = 0; i < BLOCK; i++) y[(i + by) % BLOCK] = x[i];
    return y;
}

/* Turn the scores of a query into weights. Their sum is that of tokens 0, 8, 16, ..., of tokens 1, 9, ..., and so on,
   in whichever lanes they lie: so its bits do not depend on which other sequences are in the cache. */
static void soften(const Sizes *z, Query *query, int num_extents) {
    for (int h = 0; h < z->H; h++) {
        vec *s = (vec *)(query->s + h * z->E * BLOCK), m = splat(-INFINITY), total = splat(0);
        for (int e = 0; e < num_extents; e++) m = larger(m, s[e]);
        m = splat(largest(m));
        int first = 0; /* the lane of token 0 if those of an extent had no end, in the order of `total` */
        for (int e = 0, seen = 0; e < num_extents; seen += query->counts[e++]) {
            int lane = (query->starts[e] - seen) & (BLOCK - 1);
            if (lane != first) total = rotated(total, lane - first + BLOCK);
            first = lane;
            total += s[e] = exponential(s[e] - m, LOWEST);
        }
        total = splat(1.0f / sum(rotated(total, BLOCK - first)));
        for (int e = 0; e < num_extents; e++) s[e] *= total;
    }
}

/* Add the values of lanes low..high, times the weights of COUNT heads, 32 numbers at a time as long as D allows. */
#define WEIGH(COUNT, WIDE)                                                                                       \
    static inline void weigh##COUNT##x##WIDE(const float *p, long stride, const float *v, int D, int low, int high, \
                                             float *out) {                                                       \
        vec a[COUNT][WIDE];                                                                                      \
        for (int r = 0; r < COUNT; r++)                                                                          \
            for (int j = 0; j < WIDE; j++) a[r][j] = *(const vec *)(out + r * D + j * BLOCK);                    \
        for (int t = low; t < high; t++)                                                                         \
            for (int j = 0; j < WIDE; j++) {                                                                     \
                vec value = *(const vec *)(v + t * D + j * BLOCK);                                               \
                for (int r = 0; r < COUNT; r++) a[r][j] += splat(p[r * stride + t]) * value;                     \
            }                                                                                                    \
        for (int r = 0; r < COUNT; r++)                                                                          \
            for (int j = 0; j < WIDE; j++) *(vec *)(out + r * D + j * BLOCK) = a[r][j];                          \
    }
WEIGH(1, 4)
WEIGH(2, 4)
WEIGH(1, 1)
WEIGH(2, 1)

/* Add the values of extent e to the output of a query. */
static void weigh(const Sizes *z, const float *values, Query *query, int e) {
    const int D = z->D, R = z->H / z->G;
    const long stride = z->E * BLOCK;
    int low, high;
    const float *v = values + visible(query, e, &low, &high) * z->G * D * BLOCK;
    for (int g = 0; g < z->G; g++, v += D * BLOCK)
        for (int h = g * R, end = h + R; h < end; h += 2) {
            const float *p = query->s + h * stride + e * BLOCK;
            float *out = query->out + h * D;
            int d = 0, pair = h + 2 <= end;
            for (; d + 32 <= D; d += 32) (pair ? weigh2x4 : weigh1x4)(p, stride, v + d, D, low, high, out + d);
            for (; d < D; d += BLOCK) (pair ? weigh2x1 : weigh1x1)(p, stride, v + d, D, low, high, out + d);
        }
}

/* A few queries extent by extent: what they share is read once, and what was stored at the same time lies together. */
static void attend_tile(const Sizes *z, const float *keys, const float *values, Query *queries, int n) {
    const long size = (long)z->G * z->D * BLOCK;
    int num_extents[TILE] = {0}, last = 0;
    for (int e = 0, active = 1; active; e++) {
        active = 0;
        for (int i = 0; i < n; i++)
            if (queries[i].seen < queries[i].len) {
                if (i + 1 < n) prefetch(keys, queries + i + 1, e, size);
                score(z, keys, queries + i, e);
                last = num_extents[i] = e + 1;
                active = 1;
            }
    }
    for (int i = 0; i < n; i++) {
        soften(z, queries + i, num_extents[i]);
        memset(queries[i].out, 0, sizeof(float) * z->H * z->D);
        queries[i].seen = 0;
    }
    for (int e = 0; e < last; e++)
        for (int i = 0; i < n; i++)
            if (e < num_extents[i]) {
                if (i + 1 < n) prefetch(values, queries + i + 1, e, size);
                weigh(z, values, queries + i, e);
            }
}

/* q, out [N, H, D]; query i sees the first lens[i] slots of table row rows[i], of which a window keeps the last ones.
   bounds: which queries each thread gets; scratch: 16 x H x (8 E + D) floats per thread. */
void attend(int N, int H, int G, int D, const float *q, const float *keys, const float *values, float *out,
            const int32_t *starts, const int32_t *counts, long E, const int32_t *rows, const int32_t *lens,
            const int32_t *bounds, int num_threads, int window, float scale, float *scratch) {
    const Sizes z = {H, G, D, E};
    #pragma omp parallel for schedule(static, 1) num_threads(num_threads) if (num_threads > 1)
    for (int part = 0; part < num_threads; part++)
        for (int first = bounds[part]; first < bounds[part + 1]; first += TILE) {
            int n = bounds[part + 1] - first < TILE ? bounds[part + 1] - first : TILE;
            Query queries[TILE];
            for (int i = 0; i < n; i++) {
                int row = rows[first + i], len = lens[first + i];
                float *own = scratch + ((long)part * TILE + i) * H * (E * BLOCK + D), *scaled = own + H * E * BLOCK;
                for (int j = 0; j < H * D; j++) scaled[j] = q[(long)(first + i) * H * D + j] * scale;
                queries[i] = (Query){starts + row * E, counts + row * E, scaled, own, out + (long)(first + i) * H * D,
                                     len, window > 0 && len > window ? len - window : 0, 0};
            }
            attend_tile(&z, keys, values, queries, n);
        }
}

#define WORTH_THREADS (1 << 15) /* numbers */

/* Put new keys and values [N, G, D] into their slots. */
void store(int N, int G, int D, const float *key, const float *value, float *keys, float *values, const int32_t *slots) {
    #pragma omp parallel for if ((long)N * G * D > WORTH_THREADS)
    for (int i = 0; i < N; i++) {
        long block = slots[i] / BLOCK, lane = slots[i] % BLOCK;
        for (int g = 0; g < G; g++) {
            const float *k = key + ((long)i * G + g) * D;
            float *at = keys + (block * G + g) * D * BLOCK + lane;
            for (int d = 0; d < D; d++) at[d * BLOCK] = k[d];
            memcpy(values + ((block * G + g) * BLOCK + lane) * D, value + ((long)i * G + g) * D, sizeof(float) * D);
        }
    }
}

static inline float sum_of_squares(int D, const float *x) {
    float squares[BLOCK] = {0}, total = 0;
    int d = 0;
    for (; d + BLOCK <= D; d += BLOCK)
        for (int j = 0; j < BLOCK; j++) squares[j] += x[d + j] * x[d + j];
    for (; d < D; d++) total += x[d] * x[d];
    for (int j = 0; j < BLOCK; j++) total += squares[j];
    return total;
}

/* rows [N, D] += added (unless null), and output = x / rms(x) x weight of each row x. */
void add_norm(int N, int D, float *rows, const float *added, const float *weight, float eps, float *output) {
    #pragma omp parallel for if ((long)N * D > WORTH_THREADS)
    for (int i = 0; i < N; i++) {
        float *x = rows + (long)i * D, *out = output + (long)i * D;
        if (added)
            for (int d = 0; d < D; d++) x[d] += added[(long)i * D + d];
        const float scale = 1.0f / sqrtf(sum_of_squares(D, x) / D + eps);
        for (int d = 0; d < D; d++) out[d] = x[d] * scale * weight[d];
    }
}

/* Rotary positions: rows [N, heads, D] times cos, plus x with its halves exchanged times the signed sin, [N, D] each. */
void rotate(int N, int heads, int D, float *rows, const float *cosines, const float *sines) {
    const int half = D / 2;
    #pragma omp parallel for if ((long)N * heads * D > WORTH_THREADS)
    for (int i = 0; i < N; i++) {
        const float *cos = cosines + (long)i * D, *sin = sines + (long)i * D;
        float *x = rows + (long)i * heads * D;
        for (int h = 0; h < heads; h++, x += D)
            for (int d = 0; d < half; d++) {
                float a = x[d], b = x[d + half];
                x[d] = a * cos[d] + b * sin[d];
                x[d + half] = b * cos[d + half] + a * sin[d + half];
            }
    }
}

static inline vec silu(vec x) {
    vec e, top;
    for (int j = 0; j < BLOCK; j++) e[j] = x[j] < 0 ? x[j] : -x[j];
    e = exponential(e, LOWEST); /* e^-|x| */
    for (int j = 0; j < BLOCK; j++) top[j] = x[j] < 0 ? e[j] : 1.0f;
    return x * top / (splat(1.0f) + e);
}

/* output [N, D] = silu(gate) x up, D a multiple of 8; rows of gate and up begin `stride` numbers apart. */
void gate(int N, int D, long stride, const float *gate, const float *up, float *output) {
    #pragma omp parallel for if ((long)N * D > WORTH_THREADS)
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d += BLOCK)
            *(vec *)(output + (long)i * D + d) =
                silu(*(const vec *)(gate + i * stride + d)) * *(const vec *)(up + i * stride + d);
}

/* add_norm whose input and output are bfloat16, D a multiple of 8; rows are float32. */
void add_norm_bfloat16(int N, int D, float *rows, const uint16_t *added, const float *weight, float eps,
                       uint16_t *output) {
    #pragma omp parallel for if ((long)N * D > WORTH_THREADS)
    for (int i = 0; i < N; i++) {
        float *x = rows + (long)i * D;
        if (added)
            for (int d = 0; d < D; d += BLOCK) *(vec *)(x + d) += widen(added + (long)i * D + d);
        const vec scale = splat(1.0f / sqrtf(sum_of_squares(D, x) / D + eps));
        for (int d = 0; d < D; d += BLOCK)
            narrow(*(vec *)(x + d) * scale * *(const vec *)(weight + d), output + (long)i * D + d);
    }
}

/* gate in bfloat16, computed in float32. */
void gate_bfloat16(int N, int D, long stride, const uint16_t *gate, const uint16_t *up, uint16_t *output) {
    #pragma omp parallel for if ((long)N * D > WORTH_THREADS)
    for (int i = 0; i < N; i++)
        for (int d = 0; d < D; d += BLOCK)
            narrow(silu(widen(gate + i * stride + d)) * widen(up + i * stride + d), output + (long)i * D + d);
}
