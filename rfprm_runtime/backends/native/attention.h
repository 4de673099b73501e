/* Attention of a few queries to one page of keys and values. */

#pragma once

#include <math.h>

#include "attention_row.h"
#include "exponentials.h"
#include "isa.h"
#include "rows.h"
#include "structures.h"

/* The norm of the integers of a query or key is at most the square root of 2^31, even after
 * rounding, which may add half a unit per entry. */
#define QUERY_NORM(size) (46340.0 - 0.5 * sqrt((double)(size)))
/* The largest integer of a value, and the largest sum of a page's weights: 64 rounded weights times
 * values of 14 bits and a sign then stay below 2^31. */
#define LARGEST_VALUE 16383.0
#define WEIGHT_SUM 130900.0f

/* A page of one layer and one key head. A row of keys has all 64 positions of two dimensions, a
 * row of values all dimensions of two positions, as dot_pairs takes them. */
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
    raise_largest(rows, row, first_key, weights, shrink);
    for (int r = 0; r < rows; r++) {
        int64_t seen = row[r].position - first_key + 1;
        float now = *row[r].largest;
        vec total = load(row[r].weights) * shrink[r], sum = {0}, best = {0};
        for (int key = 0; key < PAGE; key += LANES) {
            vec weight = exp2_vec(load(weights[r] + key) - now);
            weight = up_to(weight, seen - key); /* masked ones are tiny, and must be 0 */
            total = total + weight;
            weight = weight * load(page->value_units + key);
            weight = up_to(weight, seen - key); /* what a page held before may be NaN */
            sum = sum + weight;
            best = vmax(best, weight);
            store(weights[r] + key, weight);
        }
        store(row[r].weights, total);
        float by_range = max_lanes(best) / 32767.0f, by_sum = sum_lanes(sum) / WEIGHT_SUM;
        units[r] = by_range > by_sum ? by_range : by_sum;
        if (!isfinite(units[r])) { /* of a value: make NaN of everything that attends to it */
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
