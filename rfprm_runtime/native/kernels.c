/* A decoder of the Llama kind on a CPU: products of 16- or 8-bit integers, attention over paged
 * keys and values of 16 bits, logits at marker rows; everything between is float32.
 *
 * Every number that belongs to a token is computed from that token's row and from the keys and
 * values before it, in an order that depends on its position alone: products add whole integers
 * (exact in any order), attention walks pages of 64 positions. So the bits of a score do not
 * depend on what shares the batch, where a prefix was split, or how many threads ran.
 *
 * Plain C with GCC/Clang vector extensions; the one instruction without a portable spelling is
 * the dot product of 16-bit pairs and of 8-bit fours. Sizes are checked by the caller
 * (rfprm_runtime/native).
 */

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define INTERFACE_VERSION 4
#define PAGE 64          /* positions of a page of keys and values */
#define PANEL 64         /* output columns of a packed panel of weights */
#define MAX_ROWS 512     /* tokens that go through a layer at once */
#define HALF (PANEL / 2)
#define TILE 6           /* rows of a tile; with PARTS vectors of columns its sums fit registers */
#if defined(__AVX512F__)
#define LANES 16
#define PARTS 4
#elif defined(__AVX2__)
#define LANES 8
#define PARTS 2
#else
#define LANES 4
#define PARTS 2
#endif
#define WIDTH (PARTS * LANES) /* columns of a tile */
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int16_t svec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

/* ---- what the caller hands over; rfprm_runtime/native/library.py mirrors these ---- */

typedef struct {
    int64_t depth;           /* inputs */
    int64_t width;           /* outputs, padded to whole panels */
    int64_t bits;            /* of weights and inputs: 16 or 8 */
    const int32_t *panels;   /* [width / 64][depth / 2][64][2] of 16, [width / 64][depth / 4][64][4]
                              * of 8 bits: either way 32 bits of a column together */
    const float *scales;     /* [width], of a unit of the weights */
    const float *bias;       /* [width] or NULL */
    const int32_t *sums;     /* [width], with 8 bits: of the weights of a column */
    double activation_limit; /* L2 norm that quantised inputs may have: sums then fit 32 bits */
} Linear;

typedef struct {
    Linear qkv, output, gate_up, down; /* gate_up: panels of 32 gate and the 32 up columns */
    const float *attention_norm, *mlp_norm;
    const float *query_norm, *key_norm; /* [head_dim] or NULL */
} Layer;

typedef struct {
    int64_t num_layers, hidden, num_heads, num_kv_heads, head_dim, inner;
    int64_t num_labels, head_inner; /* head_inner: 0 for a linear head */
    float eps;
    const int16_t *embedding;     /* [vocab][hidden] */
    const float *embedding_scale; /* [vocab] */
    const float *cos, *sin;       /* [positions][head_dim / 2] */
    const float *final_norm;
    const float *head_weight, *head_bias;   /* [head_inner or num_labels][hidden], bias or NULL */
    const float *head_weight2, *head_bias2; /* [num_labels][head_inner] */
    const Layer *layers;
} Model;

typedef struct {
    int64_t num_tokens, start; /* tokens to run; how many came before them */
    char *const *pages;        /* of 64 positions each, from position 0 on */
} Segment;

/* ---- small vector helpers ---- */

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) {
#if LANES == 16
    return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif LANES == 8
    return (vec){x, x, x, x, x, x, x, x};
#else
    return (vec){x, x, x, x};
#endif
}
INLINE vec vmax(vec a, vec b) {
    ivec more = a > b;
    return (vec)((more & (ivec)a) | (~more & (ivec)b));
}
INLINE vec vabs(vec a) { return (vec)((ivec)a & 0x7fffffff); }

/* a * b + c, rounded once where the machine can. Written out, and the compiler told not to fuse on
 * its own, so that a row gets the same bits in a tile of any height. */
INLINE vec fma_vec(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

INLINE float sum_lanes(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
#endif
}

INLINE float max_lanes(vec v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float best = v[0];
    for (int lane = 1; lane < LANES; lane++) best = v[lane] > best ? v[lane] : best;
    return best;
#endif
}

/* e^x for x <= 0 (and a little above): 2^n times a polynomial, relative error below 2e-7. */
INLINE vec exp_vec(vec x) {
    x = vmax(x, splat(-87.0f));
    vec rounder = splat(12582912.0f); /* 1.5 * 2^23: a sum with it is rounded to an integer */
    vec shifted = fma_vec(x, splat(1.44269504f), rounder), n = shifted - rounder;
    vec r = fma_vec(n, splat(-0.693359375f), x);
    r = fma_vec(n, splat(2.12194440e-4f), r);
    vec p = fma_vec(r, splat(1.9875691500e-4f), splat(1.3981999507e-3f));
    p = fma_vec(p, r, splat(8.3334519073e-3f));
    p = fma_vec(p, r, splat(4.1665795894e-2f));
    p = fma_vec(p, r, splat(1.6666665459e-1f));
    p = fma_vec(p, r, splat(5.0000001201e-1f));
    p = fma_vec(p, r * r, r) + 1.0f;
    ivec bits = ((ivec)shifted - 0x4b400000) << 23;
    return (vec)((ivec)p + bits);
}

/* 2^x for x <= 0 (and a little above), relative error below 3e-7. */
INLINE vec exp2_vec(vec x) {
    x = vmax(x, splat(-120.0f));
    vec shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f);
    vec p = fma_vec(r, splat(1.327647177e-3f), splat(9.675541333e-3f));
    p = fma_vec(p, r, splat(5.550713274e-2f));
    p = fma_vec(p, r, splat(2.402211972e-1f));
    p = fma_vec(p, r, splat(6.931469671e-1f));
    p = fma_vec(p, r, splat(1.000000072f));
    ivec bits = ((ivec)shifted - 0x4b400000) << 23;
    return (vec)((ivec)p + bits);
}

/* ---- integer products ---- */

/* Adds a.lo * b.lo + a.hi * b.hi to each 32-bit lane; `pair` holds the two 16-bit a. */
INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
#if defined(__AVX512VNNI__)
    return (ivec)_mm512_dpwssd_epi32((__m512i)sum, _mm512_set1_epi32(pair), (__m512i)b);
#elif defined(__AVX2__)
    return sum + (ivec)_mm256_madd_epi16(_mm256_set1_epi32(pair), (__m256i)b);
#elif defined(__SSE2__)
    return sum + (ivec)_mm_madd_epi16(_mm_set1_epi32(pair), (__m128i)b);
#else
    ivec low = (b << 16) >> 16, high = b >> 16;
    return sum + low * (int32_t)(int16_t)pair + high * (pair >> 16);
#endif
}

/* Adds the products of the inputs at `at` and the weights in `b`: two of 16 bits a lane or four of
 * 8. Those of 8 bits are stored as narrow() says. */
INLINE ivec dot_step(int bits, ivec sum, const char *at, ivec b) {
    int32_t first, second;
    memcpy(&first, at, sizeof first);
    if (bits == 16) return dot_pairs(sum, first, b);
#if defined(__AVX512VNNI__)
    (void)second;
    return (ivec)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(first), (__m512i)b);
#else
    memcpy(&second, at + sizeof first, sizeof second);
    sum = dot_pairs(sum, first, (ivec)((svec)((svec)b << 8) >> 8)); /* bytes 0 and 2 */
    return dot_pairs(sum, second, (ivec)((svec)b >> 8));            /* bytes 1 and 3 */
#endif
}

#if defined(__AVX512VNNI__)
#define FOUR_BYTES 4 /* of four inputs of 8 bits */
#define INPUT_SHIFT 128
#else
#define FOUR_BYTES 8
#define INPUT_SHIFT 0
#endif

/* 16-bit integers from -127 to 127, in place, to what dot_step takes: bytes from 1 to 255 for the
 * instruction whose one side is unsigned, otherwise even and odd ones of each four in pairs. */
static void narrow(int16_t *row, int64_t size) {
#if defined(__AVX512VNNI__)
    char *to = (char *)row;
    for (int64_t i = 0; i < size; i += 16) {
        __m256i whole = _mm256_loadu_si256((const __m256i *)(row + i));
        whole = _mm256_add_epi16(whole, _mm256_set1_epi16(INPUT_SHIFT));
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtepi16_epi8(whole));
    }
#else
    for (int64_t i = 0; i < size; i += 4) {
        int16_t one = row[i + 1];
        row[i + 1] = row[i + 2];
        row[i + 2] = one;
    }
#endif
}

typedef enum { STORE, ADD, SWIGLU } Finish;

INLINE vec silu(vec x) { /* x / (1 + e^-x), by the side on which the exponential is small */
    vec small = exp_vec(-vabs(x));
    vec numerator = (vec)(((x > 0) & (ivec)(x)) | (~(x > 0) & (ivec)(x * small)));
    return numerator / (small + 1.0f);
}

/* The column, within a panel, of each part of tile number `block`: half of the parts lie in the
 * first half of the panel and half in the second, so that gate and up meet in one tile. */
INLINE int part_column(int block, int part) {
    int here = part % (PARTS / 2), half = part / (PARTS / 2);
    return half * HALF + (block * (PARTS / 2) + here) * LANES;
}

/* rows x WIDTH columns of inputs times one panel. */
INLINE void product_tile(int bits, int rows, const Linear *linear, int64_t column, int block,
                         const int16_t *inputs, const float *row_scales, float *out,
                         int64_t out_stride, Finish finish) {
    ivec sums[TILE][PARTS];
    const int64_t steps = linear->depth * bits / 32;
    const int32_t *panel = linear->panels + column * steps;
    const char *input = (const char *)inputs;
    for (int part = 0; part < PARTS; part++) {
        /* With inputs shifted by 128 every sum is too large by 128 times the column's weights. */
        ivec first = {0};
        if (bits == 8 && INPUT_SHIFT)
            first -= *(const ivec *)(linear->sums + column + part_column(block, part)) * INPUT_SHIFT;
        for (int row = 0; row < rows; row++) sums[row][part] = first;
    }
    for (int64_t step = 0; step < steps; step++, panel += PANEL) {
        ivec b[PARTS];
        for (int part = 0; part < PARTS; part++) {
            const int32_t *place = panel + part_column(block, part);
            b[part] = *(const ivec *)place;
            __builtin_prefetch(place + 8 * PANEL); /* 8 steps ahead */
        }
        for (int row = 0; row < rows; row++)
            for (int part = 0; part < PARTS; part++)
                sums[row][part] = dot_step(bits, sums[row][part],
                                           input + row * linear->depth * 2, b[part]);
        input += bits == 8 ? FOUR_BYTES : 4;
    }
    for (int row = 0; row < rows; row++) {
        vec value[PARTS];
        for (int part = 0; part < PARTS; part++) {
            int64_t at = column + part_column(block, part);
            vec scale = load(linear->scales + at) * splat(row_scales[row]);
            vec bias = linear->bias ? load(linear->bias + at) : (vec){0};
            value[part] = fma_vec(__builtin_convertvector(sums[row][part], vec), scale, bias);
        }
        float *to = out + row * out_stride;
        if (finish == SWIGLU) {
            for (int part = 0; part < PARTS / 2; part++)
                store(to + column / 2 + part_column(block, part),
                      silu(value[part]) * value[part + PARTS / 2]);
            continue;
        }
        for (int part = 0; part < PARTS; part++) {
            float *place = to + column + part_column(block, part);
            if (finish == ADD) value[part] = load(place) + value[part];
            store(place, value[part]);
        }
    }
}

INLINE void product_as(int bits, Finish finish, const Linear *linear, const int16_t *inputs,
                       const float *row_scales, int64_t rows, float *out, int64_t out_stride) {
#define TILE_OF(n)                                                                              \
    product_tile(bits, n, linear, column, block, inputs + row * linear->depth,                  \
                 row_scales + row, out + row * out_stride, out_stride, finish)
    for (int64_t column = 0; column < linear->width; column += PANEL)
        for (int block = 0; block < PANEL / WIDTH; block++) {
            int64_t row = 0;
            for (; row + TILE <= rows; row += TILE) TILE_OF(TILE);
            switch (rows - row) {
            case 5: TILE_OF(5); break;
            case 4: TILE_OF(4); break;
            case 3: TILE_OF(3); break;
            case 2: TILE_OF(2); break;
            case 1: TILE_OF(1); break;
            }
        }
#undef TILE_OF
}

/* A function for each finish and width of integers, so that every loop is compiled for its own. */
#define PRODUCT(name, finish)                                                                   \
    static void name##_16(const Linear *l, const int16_t *in, const float *scales, int64_t n,   \
                          float *out, int64_t stride) {                                         \
        product_as(16, finish, l, in, scales, n, out, stride);                                  \
    }                                                                                           \
    static void name##_8(const Linear *l, const int16_t *in, const float *scales, int64_t n,    \
                         float *out, int64_t stride) {                                          \
        product_as(8, finish, l, in, scales, n, out, stride);                                   \
    }                                                                                           \
    static void name(const Linear *l, const int16_t *in, const float *scales, int64_t n,        \
                     float *out, int64_t stride) {                                              \
        (l->bits == 8 ? name##_8 : name##_16)(l, in, scales, n, out, stride);                   \
    }
PRODUCT(product_store, STORE)
PRODUCT(product_add, ADD)
PRODUCT(product_swiglu, SWIGLU)

static void to_integers(const float *row, int64_t size, float per_unit, int16_t *out) {
    for (int64_t i = 0; i < size; i += LANES) {
        vec shifted = load(row + i) * per_unit + 12582912.0f;
        ivec whole = (ivec)shifted - 0x4b400000;
#if defined(__AVX512F__)
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtsepi32_epi16((__m512i)whole));
#else
        for (int lane = 0; lane < LANES; lane++) {
            int32_t x = whole[lane];
            out[i + lane] = (int16_t)(x > 32767 ? 32767 : x < -32767 ? -32767 : x);
        }
#endif
    }
}

/* One row to integers of at most `most`; returns the size of a unit. The unit is as small as that
 * allows and as keeps the norm of the integers within `limit`: by Cauchy and Schwarz a sum of
 * products is at most the norm of the one side times the norm of the other, and has to fit 32
 * bits. */
static float quantise(const float *row, int64_t size, double most, double limit, int16_t *out) {
    vec largest = {0}, squares = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        vec v = load(row + i);
        largest = vmax(largest, vabs(v));
        squares = fma_vec(v, v, squares);
    }
    double by_range = max_lanes(largest) / most;
    double by_norm = sqrt((double)sum_lanes(squares)) * 1.0001 / limit;
    float unit = (float)(by_range > by_norm ? by_range : by_norm);
    /* What is not finite shows in its squares; a row of it has no integers, and must not look as if
     * it had: its unit makes everything that comes of it not a number, which the caller sees. */
    if (!isfinite(unit)) {
        memset(out, 0, (size_t)size * sizeof *out);
        return NAN;
    }
    if (unit < 1e-30f) unit = 1e-30f;
    to_integers(row, size, 1.0f / unit, out);
    return unit;
}

/* A row of inputs to the integers that `linear` takes; returns the size of a unit. */
static float quantise_input(const float *row, const Linear *linear, int16_t *out) {
    if (linear->bits == 16)
        return quantise(row, linear->depth, 32767, linear->activation_limit, out);
    float unit = quantise(row, linear->depth, 127, INFINITY, out);
    narrow(out, linear->depth);
    return unit;
}

static void rms_norm(const float *row, const float *weight, int64_t size, float eps, float *out) {
    vec squares = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        vec v = load(row + i);
        squares = fma_vec(v, v, squares);
    }
    float scale = 1.0f / sqrtf(sum_lanes(squares) / (float)size + eps);
    for (int64_t i = 0; i < size; i += LANES)
        store(out + i, load(row + i) * scale * load(weight + i));
}

/* ---- attention ---- */

static void rotate(float *head, const float *cos, const float *sin, int64_t size) {
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cos[i] - second * sin[i];
        head[i + half] = second * cos[i] + first * sin[i];
    }
}

/* Integers of queries and keys: their norms are at most the square root of 2^31, also after
 * rounding, which may add half a unit an entry. */
#define QUERY_NORM(size) (46340.0 - 0.5 * sqrt((double)(size)))
/* Integers of values, and the most that the weights of a page add up to: 64 rounded weights times
 * values of 14 bits and a sign then stay below 2^31. */
#define LARGEST_VALUE 16383.0
#define WEIGHT_SUM 130900.0f

/* A page of one layer and one head of keys. A row of keys has all 64 positions of two dimensions,
 * a row of values all dimensions of two positions: what a product of pairs takes. */
typedef struct {
    const int16_t *keys;   /* [head_dim / 2][64][2] */
    const int16_t *values; /* [32][head_dim][2] */
    const float *key_units, *value_units; /* [64] */
} Page;

static int64_t head_bytes(const Model *m) {
    return 2 * PAGE * m->head_dim * (int64_t)sizeof(int16_t) + 2 * PAGE * (int64_t)sizeof(float);
}

static Page page_of(const Model *m, char *layer, int64_t kv_head) {
    int16_t *keys = (int16_t *)(layer + kv_head * head_bytes(m));
    int16_t *values = keys + PAGE * m->head_dim;
    float *units = (float *)(values + PAGE * m->head_dim);
    return (Page){keys, values, units, units + PAGE};
}

typedef struct {
    const int16_t *query; /* [head_dim] */
    float unit;           /* of the query, times log2(e) / sqrt(head_dim): weights are 2^logit */
    float *mixed;         /* [head_dim], the running weighted sum */
    float *largest;       /* the running maximum of the logits */
    float *weights;       /* [LANES], the running sum of the weights, by lane */
    int64_t position;
} AttentionRow;

/* The first `count` lanes of x, which may be all or none, and 0 in the others. */
INLINE vec up_to(vec x, int64_t count) {
    for (int64_t lane = count > 0 ? count : 0; lane < LANES; lane++) x[lane] = 0;
    return x;
}

/* `rows` queries against one page. */
INLINE void attend_tile(int rows, const AttentionRow *row, const Page *page, int64_t first_key,
                        int64_t head_dim) {
    float weights[TILE][PAGE]; /* logits at first */
    int16_t whole[TILE][PAGE]; /* weights times the unit of their value, as integers */
    float units[TILE];
    vec shrink[TILE];
    for (int first = 0; first < PAGE; first += WIDTH) {
        ivec sums[TILE][PARTS];
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < PARTS; part++) sums[r][part] = (ivec){0};
        for (int64_t d = 0; d < head_dim; d += 2) {
            ivec k[PARTS];
            for (int part = 0; part < PARTS; part++)
                k[part] = *(const ivec *)(page->keys + d * PAGE + 2 * (first + part * LANES));
            for (int r = 0; r < rows; r++) {
                int32_t pair;
                memcpy(&pair, row[r].query + d, sizeof pair);
                for (int part = 0; part < PARTS; part++)
                    sums[r][part] = dot_pairs(sums[r][part], pair, k[part]);
            }
        }
        for (int part = 0; part < PARTS; part++) {
            vec unit = load(page->key_units + first + part * LANES);
            for (int r = 0; r < rows; r++)
                store(weights[r] + first + part * LANES,
                      __builtin_convertvector(sums[r][part], vec) * (unit * row[r].unit));
        }
    }
    float shrinks[(TILE + LANES - 1) / LANES * LANES] = {0};
    for (int r = 0; r < rows; r++) {
        int64_t seen = row[r].position - first_key + 1; /* later keys are masked */
        for (int64_t key = seen; key < PAGE; key++) weights[r][key] = -1e30f;
        vec best = load(weights[r]);
        for (int key = LANES; key < PAGE; key += LANES) best = vmax(best, load(weights[r] + key));
        float before = *row[r].largest, now = max_lanes(best);
        if (now < before) now = before;
        *row[r].largest = now;
        shrinks[r] = before - now;
    }
    for (int r = 0; r < rows; r += LANES) store(shrinks + r, exp2_vec(load(shrinks + r)));
    for (int r = 0; r < rows; r++) {
        int64_t seen = row[r].position - first_key + 1;
        float now = *row[r].largest;
        shrink[r] = splat(shrinks[r]);
        vec total = load(row[r].weights) * shrink[r], sum = {0}, best = {0};
        for (int key = 0; key < PAGE; key += LANES) {
            vec weight = exp2_vec(load(weights[r] + key) - now);
            weight = up_to(weight, seen - key); /* masked ones are tiny, and are to be nothing */
            total = total + weight;
            weight = weight * load(page->value_units + key);
            weight = up_to(weight, seen - key); /* what a page held before may be no number */
            sum = sum + weight;
            best = vmax(best, weight);
            store(weights[r] + key, weight);
        }
        store(row[r].weights, total);
        float by_range = max_lanes(best) / 32767.0f, by_sum = sum_lanes(sum) / WEIGHT_SUM;
        units[r] = by_range > by_sum ? by_range : by_sum;
        if (!isfinite(units[r])) { /* of a value: so that what attends to it is no number either */
            units[r] = NAN;
            memset(whole[r], 0, sizeof whole[r]);
            continue;
        }
        if (units[r] < 1e-30f) units[r] = 1e-30f;
        to_integers(weights[r], PAGE, 1.0f / units[r], whole[r]);
    }
    int64_t num_keys = row[rows - 1].position - first_key + 1; /* the last row sees the most */
    if (num_keys > PAGE) num_keys = PAGE;
#define MIX(parts)                                                                              \
    do {                                                                                        \
        ivec sums[TILE][parts];                                                                 \
        for (int r = 0; r < rows; r++)                                                          \
            for (int part = 0; part < parts; part++) sums[r][part] = (ivec){0};                 \
        for (int64_t key = 0; key < num_keys; key += 2) {                                       \
            ivec v[parts];                                                                      \
            for (int part = 0; part < parts; part++)                                            \
                v[part] = *(const ivec *)(page->values + key * head_dim +                       \
                                          2 * (column + part * LANES));                         \
            for (int r = 0; r < rows; r++) {                                                    \
                int32_t pair;                                                                   \
                memcpy(&pair, whole[r] + key, sizeof pair);                                     \
                for (int part = 0; part < parts; part++)                                        \
                    sums[r][part] = dot_pairs(sums[r][part], pair, v[part]);                    \
            }                                                                                   \
        }                                                                                       \
        for (int r = 0; r < rows; r++)                                                          \
            for (int part = 0; part < parts; part++) {                                          \
                float *place = row[r].mixed + column + part * LANES;                            \
                store(place, fma_vec(__builtin_convertvector(sums[r][part], vec),               \
                                     splat(units[r]), load(place) * shrink[r]));                \
            }                                                                                   \
    } while (0)
    int64_t column = 0;
    for (; column + WIDTH <= head_dim; column += WIDTH) MIX(PARTS);
    for (; column < head_dim; column += LANES) MIX(1);
#undef MIX
}

static void attend_rows(int64_t count, const AttentionRow *row, const Page *page,
                        int64_t first_key, int64_t head_dim) {
    for (; count >= TILE; count -= TILE, row += TILE)
        attend_tile(TILE, row, page, first_key, head_dim);
    switch (count) {
    case 5: attend_tile(5, row, page, first_key, head_dim); break;
    case 4: attend_tile(4, row, page, first_key, head_dim); break;
    case 3: attend_tile(3, row, page, first_key, head_dim); break;
    case 2: attend_tile(2, row, page, first_key, head_dim); break;
    case 1: attend_tile(1, row, page, first_key, head_dim); break;
    }
}

/* ---- the network ---- */

typedef struct {
    float *hidden;     /* [num_tokens][hidden_stride], the residual stream */
    float *wide;       /* [rows][widest product] */
    float *mixed;      /* [rows][heads * head_dim] */
    int16_t *queries;  /* [rows][heads * head_dim] */
    float *query_units; /* [rows][heads] */
    int16_t *inputs;   /* [rows][deepest product] */
    float *units;      /* [rows] */
    float *line;       /* [widest row] */
    float *running;    /* [rows * group][LANES + 1]: weights by lane, largest */
    AttentionRow *rows;
    int64_t hidden_stride, wide_stride;
} Scratch;

static int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Lays out the scratch memory from `base`; with base NULL only its size counts. */
static int64_t lay_out(const Model *m, int64_t num_tokens, char *base, Scratch *s) {
    int64_t query_size = m->num_heads * m->head_dim;
    int64_t rows = num_tokens < MAX_ROWS ? num_tokens : MAX_ROWS;
    int64_t qkv = query_size + 2 * m->num_kv_heads * m->head_dim;
    int64_t group = m->num_heads / m->num_kv_heads;
    s->hidden_stride = round_up(m->hidden, PANEL);
    /* The head's input goes there too, at the end. */
    s->wide_stride = round_up(most(most(qkv, round_up(m->inner, 32)), m->hidden), PANEL);
    int64_t deepest = most(most(m->hidden, query_size), m->inner), used = 0;
#define TAKE(field, bytes) (s->field = (void *)(base + used), used += round_up(bytes, 64))
    TAKE(hidden, num_tokens * s->hidden_stride * 4);
    TAKE(wide, rows * s->wide_stride * 4);
    TAKE(mixed, rows * query_size * 4);
    TAKE(queries, rows * query_size * 2);
    TAKE(query_units, rows * m->num_heads * 4);
    TAKE(inputs, rows * deepest * 2);
    TAKE(units, rows * 4);
    TAKE(line, round_up(most(deepest, m->head_inner), LANES) * 4);
    TAKE(running, rows * group * (LANES + 1) * 4);
    TAKE(rows, rows * group * (int64_t)sizeof(AttentionRow));
#undef TAKE
    return used;
}

static void quantise_normed(const Scratch *s, const float *hidden, const float *norm,
                            const Linear *linear, int64_t rows, float eps) {
    for (int64_t row = 0; row < rows; row++) {
        rms_norm(hidden + row * s->hidden_stride, norm, linear->depth, eps, s->line);
        s->units[row] = quantise_input(s->line, linear, s->inputs + row * linear->depth);
    }
}

static void quantise_rows(const Scratch *s, const float *from, int64_t stride, const Linear *linear,
                          int64_t rows) {
    for (int64_t row = 0; row < rows; row++)
        s->units[row] =
            quantise_input(from + row * stride, linear, s->inputs + row * linear->depth);
}

static int64_t layer_bytes(const Model *m) { /* of a page */
    return m->num_kv_heads * head_bytes(m);
}

/* The rows that a segment has among those that go through a layer at once. */
typedef struct {
    int64_t begin, end; /* rows */
    int64_t shift;      /* the position of a row is the row plus this */
    char *const *pages;
} Part;

/* The parts of rows first, first + 1, …; returns how many. */
static int64_t find_parts(const Segment *segments, int64_t first, int64_t rows, Part *parts) {
    int64_t count = 0, from = 0; /* the first row of the segment */
    for (; from < first + rows; from += segments->num_tokens, segments++) {
        int64_t to = from + segments->num_tokens;
        if (to <= first) continue;
        parts[count++] = (Part){
            .begin = most(from - first, 0),
            .end = to < first + rows ? to - first : rows,
            .shift = segments->start + first - from,
            .pages = segments->pages,
        };
    }
    return count;
}

/* Queries, keys and values of a part's rows to integers: queries to the scratch memory, the others
 * to the page of their position, whose layers begin at `offset`. */
static void place_keys(const Model *m, const Layer *layer, const Scratch *s, int64_t offset,
                       const Part *part) {
    int64_t size = m->head_dim, half = size / 2;
    float query_scale = 1.44269504f / sqrtf((float)size);
    int16_t *whole = (int16_t *)s->line; /* of one head */
    for (int64_t row = part->begin; row < part->end; row++) {
        int64_t position = part->shift + row, slot = position % PAGE;
        const float *cos = m->cos + position * half, *sin = m->sin + position * half;
        float *head = s->wide + row * s->wide_stride;
        char *place = part->pages[position / PAGE] + offset;
        for (int64_t h = 0; h < m->num_heads; h++, head += size) {
            int64_t at = row * m->num_heads + h;
            if (layer->query_norm) rms_norm(head, layer->query_norm, size, m->eps, head);
            rotate(head, cos, sin, size);
            s->query_units[at] =
                query_scale * quantise(head, size, 32767, QUERY_NORM(size), s->queries + at * size);
        }
        for (int64_t h = 0; h < m->num_kv_heads; h++, head += size) {
            Page page = page_of(m, place, h);
            int16_t *keys = (int16_t *)page.keys + 2 * slot;
            if (layer->key_norm) rms_norm(head, layer->key_norm, size, m->eps, head);
            rotate(head, cos, sin, size);
            ((float *)page.key_units)[slot] = quantise(head, size, 32767, QUERY_NORM(size), whole);
            for (int64_t d = 0; d < size; d += 2) memcpy(keys + d * PAGE, whole + d, 4);
        }
        for (int64_t h = 0; h < m->num_kv_heads; h++, head += size) {
            Page page = page_of(m, place, h);
            int16_t *values = (int16_t *)page.values + (slot & ~1) * size + (slot & 1);
            ((float *)page.value_units)[slot] =
                quantise(head, size, LARGEST_VALUE, INFINITY, whole);
            for (int64_t d = 0; d < size; d++) values[2 * d] = whole[d];
        }
    }
}

/* Attention of rows of one part (`chosen`, ascending), all heads; results in `mixed`, packed. */
static void attend(const Model *m, const Scratch *s, int64_t offset, const Part *part,
                   const int64_t *chosen, int64_t count, float *mixed) {
    int64_t size = m->head_dim, group = m->num_heads / m->num_kv_heads;
    int64_t query_size = m->num_heads * size;
    memset(mixed, 0, (size_t)(count * query_size) * sizeof(float));
    for (int64_t kv = 0; kv < m->num_kv_heads; kv++) {
        AttentionRow *row = s->rows;
        for (int64_t i = 0; i < count; i++)
            for (int64_t g = 0; g < group; g++, row++) {
                float *running = s->running + (i * group + g) * (LANES + 1);
                memset(running, 0, LANES * sizeof(float));
                running[LANES] = -1e30f;
                int64_t head = kv * group + g;
                row->query = s->queries + (chosen[i] * m->num_heads + head) * size;
                row->unit = s->query_units[chosen[i] * m->num_heads + head];
                row->mixed = mixed + i * query_size + head * size;
                row->weights = running;
                row->largest = running + LANES;
                row->position = part->shift + chosen[i];
            }
        int64_t last = count ? part->shift + chosen[count - 1] : -1, first = 0;
        for (int64_t page = 0; page * PAGE <= last; page++) {
            while (part->shift + chosen[first] < page * PAGE) first++; /* rows before this page */
            Page memory = page_of(m, part->pages[page] + offset, kv);
            attend_rows((count - first) * group, s->rows + first * group, &memory, page * PAGE,
                        size);
        }
        for (row = s->rows; row < s->rows + count * group; row++) {
            float scale = 1.0f / sum_lanes(load(row->weights));
            for (int64_t d = 0; d < size; d += LANES)
                store(row->mixed + d, load(row->mixed + d) * scale);
        }
    }
}

INLINE float dot(const float *a, const float *b, int64_t size) {
    vec total = {0};
    for (int64_t i = 0; i < size; i += LANES) total = fma_vec(load(a + i), load(b + i), total);
    return sum_lanes(total);
}

static void read_head(const Model *m, const Scratch *s, const float *row, float *logits) {
    float *normed = s->wide, *inner = s->line;
    rms_norm(row, m->final_norm, m->hidden, m->eps, normed);
    const float *from = normed, *weight = m->head_weight, *bias = m->head_bias;
    int64_t depth = m->hidden;
    if (m->head_inner) {
        for (int64_t i = 0; i < m->head_inner; i++) {
            float x = dot(normed, weight + i * depth, depth) + (bias ? bias[i] : 0.0f);
            inner[i] = x < 0 ? 0 : x; /* so written, what is no number stays none */
        }
        from = inner, weight = m->head_weight2, bias = m->head_bias2, depth = m->head_inner;
    }
    for (int64_t i = 0; i < m->num_labels; i++)
        logits[i] = dot(from, weight + i * depth, depth) + (bias ? bias[i] : 0.0f);
}

static void wait_for(_Atomic int64_t *done, int64_t position) {
    for (int spins = 0; atomic_load_explicit(done, memory_order_acquire) < position; spins++) {
        if (spins > 200) sched_yield();
#if defined(__x86_64__)
        else _mm_pause();
#endif
    }
}

static void embed(const Model *m, const Scratch *s, const int64_t *ids, int64_t num_tokens) {
    for (int64_t row = 0; row < num_tokens; row++) {
        const int16_t *from = m->embedding + ids[row] * m->hidden;
        float unit = m->embedding_scale[ids[row]], *to = s->hidden + row * s->hidden_stride;
        for (int64_t i = 0; i < m->hidden; i++) to[i] = (float)from[i] * unit;
        for (int64_t i = m->hidden; i < s->hidden_stride; i++) to[i] = 0; /* padding */
    }
}

/* The part of a layer after the keys: attention of the chosen rows, then their MLP. `hidden`
 * holds those rows and no others. */
static void finish_layer(const Model *m, const Layer *layer, const Scratch *s, float *hidden,
                         int64_t offset, const Part *parts, int64_t num_parts,
                         const int64_t *chosen, int64_t count) {
    int64_t stride = s->hidden_stride, query_size = m->num_heads * m->head_dim, from = 0;
    for (const Part *part = parts; part < parts + num_parts; part++) {
        int64_t to = from;
        while (to < count && chosen[to] < part->end) to++;
        attend(m, s, offset, part, chosen + from, to - from, s->mixed + from * query_size);
        from = to;
    }
    quantise_rows(s, s->mixed, query_size, &layer->output, count);
    product_add(&layer->output, s->inputs, s->units, count, hidden, stride);
    quantise_normed(s, hidden, layer->mlp_norm, &layer->gate_up, count, m->eps);
    product_swiglu(&layer->gate_up, s->inputs, s->units, count, s->wide, s->wide_stride);
    quantise_rows(s, s->wide, s->wide_stride, &layer->down, count);
    product_add(&layer->down, s->inputs, s->units, count, hidden, stride);
}

/* ---- the interface ---- */

int64_t rfprm_interface_version(void) { return INTERFACE_VERSION; }

/* 2: AVX-512 with VNNI, 1: AVX2 with FMA, 0: neither. */
int64_t rfprm_cpu_level(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

int64_t rfprm_page_positions(void) { return PAGE; }

/* Bytes of the keys and values of one page in one layer. */
int64_t rfprm_page_bytes(const Model *m) { return layer_bytes(m); }

int64_t rfprm_scratch_bytes(const Model *m, int64_t num_tokens) {
    Scratch s;
    return lay_out(m, num_tokens, 0, &s);
}

/* Runs the tokens of each segment after what its pages hold before its start; writes their keys
 * and values to the pages, and logits [num_markers][num_labels].
 *
 * `ids` and `markers` (ascending) count through the segments. With `keep_layers` a page has room
 * for every layer and can serve as a past; without, all layers share the room of one, and every
 * start is 0. `done` is NULL, or one counter a layer of the positions whose keys are in place:
 * threads that run neighbouring stretches of one trace, a segment each, share it, and each
 * follows a layer behind the one before it. */
void rfprm_run(const Model *m, const int64_t *ids, const Segment *segments, int64_t num_segments,
               int64_t keep_layers, const int64_t *markers, int64_t num_markers, float *logits,
               void *scratch, _Atomic int64_t *done) {
    Scratch s;
    int64_t all[MAX_ROWS], local[MAX_ROWS], num_tokens = 0;
    Part parts[MAX_ROWS];
    for (int64_t i = 0; i < num_segments; i++) num_tokens += segments[i].num_tokens;
    lay_out(m, num_tokens, scratch, &s);
    embed(m, &s, ids, num_tokens);
    for (int64_t i = 0; i < MAX_ROWS; i++) all[i] = i;
    for (int64_t index = 0; index < m->num_layers; index++) {
        const Layer *layer = m->layers + index;
        int64_t offset = keep_layers ? index * layer_bytes(m) : 0, seen = 0;
        for (int64_t first = 0; first < num_tokens; first += MAX_ROWS) {
            int64_t rows = num_tokens - first < MAX_ROWS ? num_tokens - first : MAX_ROWS;
            int64_t num_parts = find_parts(segments, first, rows, parts);
            float *hidden = s.hidden + first * s.hidden_stride;
            quantise_normed(&s, hidden, layer->attention_norm, &layer->qkv, rows, m->eps);
            product_store(&layer->qkv, s.inputs, s.units, rows, s.wide, s.wide_stride);
            for (int64_t i = 0; i < num_parts; i++) place_keys(m, layer, &s, offset, parts + i);
            if (done) {
                int64_t position = segments->start + first;
                wait_for(done + index, segments->start);
                atomic_store_explicit(done + index, position + rows, memory_order_release);
            }
            if (index < m->num_layers - 1) {
                finish_layer(m, layer, &s, hidden, offset, parts, num_parts, all, rows);
                continue;
            }
            int64_t here = 0; /* after the last keys only marker rows are read */
            for (; seen < num_markers && markers[seen] < first + rows; here++, seen++) {
                local[here] = markers[seen] - first;
                memmove(hidden + here * s.hidden_stride, hidden + local[here] * s.hidden_stride,
                        (size_t)s.hidden_stride * sizeof(float));
            }
            finish_layer(m, layer, &s, hidden, offset, parts, num_parts, local, here);
            for (int64_t i = 0; i < here; i++, logits += m->num_labels)
                read_head(m, &s, hidden + i * s.hidden_stride, logits);
        }
    }
}
