/* Attention over packed trees, forward and backward, float32.

The tokens of a tree lie in depth-first order, so those that a token sees are the path that leads to it. Keys and values
of the current path are kept side by side, by position: going on writes at the end, and a token whose position is not
one past the last one's drops what lies deeper. So no key is masked but those of the few queries that are worked on
together, and each pair of a token and one above it costs what it costs in a sequence.

TreeAttention in model/attention.py has the same in torch.

Letters: N tokens, H query heads, G key-value heads, R = H / G, D head size, W the same filled up to a whole number of
vectors, L room for the longest path, M rows (query heads of one group x queries) worked on together. */

#include "vectors.h"

#define COLUMNS (2 * LANES)
#define LOWEST -127.0f /* keys that a query does not see, at -infinity, weigh nothing */
#if LANES == 16
#define ROWS 12
#else
#define ROWS 6
#endif

/* out [COUNT, WIDE vectors] (+)= a [COUNT, depth] b [depth, WIDE vectors]; a has any strides. */
#define PRODUCT(COUNT, WIDE)                                                                                     \
    static inline void product##COUNT##x##WIDE(long depth, const float *a, long a_row, long a_column,            \
                                               const float *b, long b_row, float *out, long out_row, int add) {  \
        vec sum[COUNT][WIDE];                                                                                    \
        for (int r = 0; r < COUNT; r++)                                                                          \
            for (int j = 0; j < WIDE; j++)                                                                       \
                sum[r][j] = add ? *(const vec *)(out + r * out_row + j * LANES) : splat(0);                      \
        for (long d = 0; d < depth; d++) {                                                                       \
            vec x[WIDE];                                                                                         \
            for (int j = 0; j < WIDE; j++) x[j] = *(const vec *)(b + d * b_row + j * LANES);                     \
            for (int r = 0; r < COUNT; r++)                                                                      \
                for (int j = 0; j < WIDE; j++) sum[r][j] += a[r * a_row + d * a_column] * x[j];                  \
        }                                                                                                        \
        for (int r = 0; r < COUNT; r++)                                                                          \
            for (int j = 0; j < WIDE; j++) *(vec *)(out + r * out_row + j * LANES) = sum[r][j];                  \
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
    for (; r + COUNT <= rows; r += COUNT)                                                                        \
        (wide ? product##COUNT##x2 : product##COUNT##x1)(depth, a + r * a_row, a_row, a_column, b + c, b_row,    \
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

#define KEYS 256 /* keys scored at a time; a multiple of COLUMNS */

/* Sizes of a call. tile: most queries worked on together; window: positions that a query sees back, or 0. */
typedef struct {
    int H, G, R, D, W, tile, window;
    long L;
    float scale;
} Sizes;

/* Scratch of one thread. Along the path: keys and values as columns [W, L] and as rows [L, W], the gradients of both as
   rows, and the token at each position; of the queries worked on: [M, W] or, per key, [M, KEYS]. */
typedef struct {
    float *key_columns, *key_rows, *value_columns, *value_rows, *key_grads, *value_grads;
    float *query, *output, *output_grad, *query_grad, *weights, *weight_grads, *most, *total;
    int32_t *tokens;
} Scratch;

static long up(long n, long unit) { return (n + unit - 1) / unit * unit; }

/* Arrays along the path: the forward needs the first two alone. */
static int num_paths(int backward) { return backward ? 6 : 2; }

long scratch_size(int H, int G, int D, int tile, long longest, int backward) {
    const long W = up(D, LANES), L = up(longest, COLUMNS) + COLUMNS + LANES, M = (long)tile * (H / G);
    return num_paths(backward) * W * L + 4 * M * W + 2 * M * KEYS + 2 * M + L + LANES;
}

static Scratch divide(float *at, const Sizes *z, int backward) {
    const long path = z->W * z->L, M = (long)z->tile * z->R;
    Scratch s = {0};
    float **along[] = {&s.key_columns, &s.value_rows, &s.key_rows, &s.value_columns, &s.key_grads, &s.value_grads};
    for (int i = 0; i < num_paths(backward); i++, at += path) *along[i] = at;
    float **rows[] = {&s.query, &s.output, &s.output_grad, &s.query_grad};
    for (int i = 0; i < 4; i++, at += M * z->W) *rows[i] = at;
    s.weights = at, at += M * KEYS;
    s.weight_grads = at, at += M * KEYS;
    s.most = at, at += M;
    s.total = at, at += M;
    s.tokens = (int32_t *)at;
    return s;
}

/* Queries first..last - 1, at positions that rise by one from `position`, of the heads of group g. */
typedef struct {
    int first, last, position, g, M;
} Tile;

/* Rows [M, W] from x [N, H, D], times `scale`: one query after the other, its R heads side by side. */
static void gather(const Sizes *z, const Tile *t, const float *x, float scale, float *rows) {
    for (int i = t->first; i < t->last; i++)
        for (int r = 0; r < z->R; r++, rows += z->W) {
            const float *from = x + ((long)i * z->H + t->g * z->R + r) * z->D;
            for (int d = 0; d < z->D; d++) rows[d] = from[d] * scale;
            for (int d = z->D; d < z->W; d++) rows[d] = 0;
        }
}

/* The keys that row m of a tile sees: positions *low up to, not including, *high. */
static inline void sight(const Sizes *z, const Tile *t, int m, int *low, int *high) {
    *high = t->position + m / z->R + 1;
    *low = z->window > 0 && *high > z->window ? *high - z->window : 0;
}

/* The first key that any row of a tile sees, at the start of a vector. */
static inline int first_key(const Sizes *z, const Tile *t) {
    int low, high;
    sight(z, t, 0, &low, &high);
    return low / COLUMNS * COLUMNS;
}

static inline int past_keys(const Tile *t) { return t->position + t->last - t->first; }

/* weights [M, count] = query x keys from..from + count - 1, -inf where a row does not see one; returns count filled up. */
static int score(const Sizes *z, const Tile *t, const Scratch *s, int from, int count) {
    const int columns = up(count, LANES);
    multiply(t->M, columns, z->W, s->query, z->W, 1, s->key_columns + from, z->L, s->weights, KEYS, 0);
    for (int m = 0; m < t->M; m++) {
        int low, high;
        sight(z, t, m, &low, &high);
        float *row = s->weights + (long)m * KEYS;
        for (int i = high > from ? high - from : 0; i < columns; i++) row[i] = -INFINITY;
        for (int i = 0; i < low - from && i < columns; i++) row[i] = -INFINITY;
    }
    return columns;
}

/* Go on softmax(scores) values with the scores of some more keys: most and total per row, output not yet divided. */
static void soften(const Sizes *z, const Tile *t, const Scratch *s, int columns) {
    for (int m = 0; m < t->M; m++) {
        float *row = s->weights + (long)m * KEYS, most = s->most[m];
        vec highest = splat(most), total = splat(0);
        for (int i = 0; i < columns; i += LANES) {
            highest = larger(highest, *(vec *)(row + i));
        }
        for (int j = 0; j < LANES; j++) most = most > highest[j] ? most : highest[j];
        if (most == -INFINITY) {
            memset(row, 0, sizeof(float) * columns);
            continue;
        }
        const vec shift = splat(most);
        for (int i = 0; i < columns; i += LANES) {
            vec x = *(vec *)(row + i), w = exponential(x - shift, LOWEST);
            *(vec *)(row + i) = w;
            total += w;
        }
        const float shrink = expf(s->most[m] - most);
        float sum = s->total[m] * shrink;
        for (int j = 0; j < LANES; j++) sum += total[j];
        s->most[m] = most;
        s->total[m] = sum;
        if (shrink != 1)
            for (int d = 0; d < z->W; d += LANES) *(vec *)(s->output + (long)m * z->W + d) *= shrink;
    }
}

static void forward_tile(const Sizes *z, const Tile *t, const float *q, const Scratch *s, float *out, float *lse) {
    gather(z, t, q, z->scale, s->query);
    memset(s->output, 0, sizeof(float) * t->M * z->W);
    for (int m = 0; m < t->M; m++) s->most[m] = -INFINITY, s->total[m] = 0;
    for (int from = first_key(z, t), end = past_keys(t); from < end; from += KEYS) {
        const int count = end - from < KEYS ? end - from : KEYS;
        soften(z, t, s, score(z, t, s, from, count));
        multiply(t->M, z->W, count, s->weights, KEYS, 1, s->value_rows + from * z->W, z->W, s->output, z->W, 1);
    }
    for (int m = 0; m < t->M; m++) {
        const long row = (long)(t->first + m / z->R) * z->H + t->g * z->R + m % z->R;
        const float share = 1 / s->total[m];
        for (int d = 0; d < z->D; d++) out[row * z->D + d] = s->output[(long)m * z->W + d] * share;
        lse[row] = s->most[m] + logf(s->total[m]);
    }
}

/* weights = softmax, weight_grads = gradient of the scores, of some keys; most: log-sum-exp, total: output x gradient. */
static void soften_backward(const Tile *t, const Scratch *s, int columns) {
    for (int m = 0; m < t->M; m++) {
        float *row = s->weights + (long)m * KEYS, *grad = s->weight_grads + (long)m * KEYS;
        const vec shift = splat(s->most[m]), mean = splat(s->total[m]);
        for (int i = 0; i < columns; i += LANES) {
            vec x = *(vec *)(row + i), w = exponential(x - shift, LOWEST);
            *(vec *)(row + i) = w;
            *(vec *)(grad + i) = w * (*(vec *)(grad + i) - mean);
        }
    }
}

typedef struct {
    const float *q, *k, *v, *out, *lse, *out_grad;
    float *q_grad, *k_grad, *v_grad;
} Arrays;

static void backward_tile(const Sizes *z, const Tile *t, const Arrays *x, const Scratch *s) {
    const int M = t->M, W = z->W;
    gather(z, t, x->q, z->scale, s->query);
    gather(z, t, x->out, 1, s->output);
    gather(z, t, x->out_grad, 1, s->output_grad);
    memset(s->query_grad, 0, sizeof(float) * M * W);
    for (int m = 0; m < M; m++) {
        vec sum = splat(0);
        for (long d = (long)m * W; d < (long)(m + 1) * W; d += LANES)
            sum += *(vec *)(s->output + d) * *(vec *)(s->output_grad + d);
        s->total[m] = 0;
        for (int j = 0; j < LANES; j++) s->total[m] += sum[j];
        s->most[m] = x->lse[(long)(t->first + m / z->R) * z->H + t->g * z->R + m % z->R];
    }
    for (int from = first_key(z, t), end = past_keys(t); from < end; from += KEYS) {
        const int count = end - from < KEYS ? end - from : KEYS, columns = score(z, t, s, from, count);
        multiply(M, columns, W, s->output_grad, W, 1, s->value_columns + from, z->L, s->weight_grads, KEYS, 0);
        soften_backward(t, s, columns);
        multiply(count, W, M, s->weights, 1, KEYS, s->output_grad, W, s->value_grads + (long)from * W, W, 1);
        multiply(count, W, M, s->weight_grads, 1, KEYS, s->query, W, s->key_grads + (long)from * W, W, 1);
        multiply(M, W, count, s->weight_grads, KEYS, 1, s->key_rows + (long)from * W, W, s->query_grad, W, 1);
    }
    for (int m = 0; m < M; m++) {
        float *to = x->q_grad + ((long)(t->first + m / z->R) * z->H + t->g * z->R + m % z->R) * z->D;
        for (int d = 0; d < z->D; d++) to[d] = s->query_grad[(long)m * W + d] * z->scale;
    }
}

/* Put the keys and values of tokens first..last - 1 on the path. */
static void extend(const Sizes *z, const Arrays *x, const Scratch *s, int g, int first, int last, int position,
                   int backward) {
    for (int i = first; i < last; i++, position++) {
        const float *k = x->k + ((long)i * z->G + g) * z->D, *v = x->v + ((long)i * z->G + g) * z->D;
        for (int d = 0; d < z->D; d++) s->key_columns[d * z->L + position] = k[d];
        memcpy(s->value_rows + (long)position * z->W, v, sizeof(float) * z->D);
        s->tokens[position] = i;
        if (!backward) continue;
        for (int d = 0; d < z->D; d++) s->value_columns[d * z->L + position] = v[d];
        memcpy(s->key_rows + (long)position * z->W, k, sizeof(float) * z->D);
    }
}

/* Take positions from `position` to `end` - 1 off the path: every query that sees them has been computed. */
static void retreat(const Sizes *z, const Arrays *x, const Scratch *s, int g, int position, int end) {
    for (int p = position; p < end; p++) {
        const long at = ((long)s->tokens[p] * z->G + g) * z->D;
        memcpy(x->k_grad + at, s->key_grads + (long)p * z->W, sizeof(float) * z->D);
        memcpy(x->v_grad + at, s->value_grads + (long)p * z->W, sizeof(float) * z->D);
    }
    memset(s->key_grads + (long)position * z->W, 0, sizeof(float) * (end - position) * z->W);
    memset(s->value_grads + (long)position * z->W, 0, sizeof(float) * (end - position) * z->W);
}

/* One tree, tokens first..last - 1, and one group of heads. */
static void walk(const Sizes *z, const Arrays *x, const Scratch *s, const int32_t *positions, int g, int first,
                 int last, int backward) {
    int depth = 0;
    for (int i = first; i < last;) {
        int end = i + 1;
        while (end < last && positions[end] == positions[end - 1] + 1) end++;
        if (backward && positions[i] < depth) retreat(z, x, s, g, positions[i], depth);
        extend(z, x, s, g, i, end, positions[i], backward);
        for (; i < end; i += z->tile) {
            Tile t = {i, i + z->tile < end ? i + z->tile : end, positions[i], g, 0};
            t.M = (t.last - t.first) * z->R;
            if (backward) backward_tile(z, &t, x, s);
            else forward_tile(z, &t, x->q, s, (float *)x->out, (float *)x->lse);
        }
        i = end;
        depth = positions[end - 1] + 1;
    }
    if (backward) retreat(z, x, s, g, 0, depth);
}

/* q, out [N, H, D], k, v [N, G, D], lse [N, H]; gradients as what they belong to, or null for the forward.
   bounds [num_trees, 2]: first token of each tree and past its last; scratch: per thread, scratch_len zeros. */
void tree_attention(int H, int G, int D, const float *q, const float *k, const float *v, float *out, float *lse,
                    const float *out_grad, float *q_grad, float *k_grad, float *v_grad, const int32_t *positions,
                    const int32_t *bounds, int num_trees, long longest, int tile, int window, float scale,
                    int num_threads, long scratch_len, float *scratch) {
    const Sizes z = {H, G, H / G, D, up(D, LANES), tile, window, up(longest, COLUMNS) + COLUMNS + LANES, scale};
    const Arrays x = {q, k, v, out, lse, out_grad, q_grad, k_grad, v_grad};
    #pragma omp parallel num_threads(num_threads) if (num_threads > 1)
    {
        int thread = 0;
#ifdef _OPENMP
        extern int omp_get_thread_num(void);
        thread = omp_get_thread_num();
#endif
        const Scratch s = divide(scratch + thread * scratch_len, &z, out_grad != 0);
        #pragma omp for schedule(dynamic, 1)
        for (int task = 0; task < num_trees * G; task++)
            walk(&z, &x, &s, positions, task % G, bounds[task / G * 2], bounds[task / G * 2 + 1], out_grad != 0);
    }
}
