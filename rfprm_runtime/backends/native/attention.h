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

/* Logits of a vector of keys, from the sums of their products. */
INLINE void put_logits(const AttentionRow *row, const Page *page, int key, ivec sums,
                       float *logits) {
    store(logits + key,
          __builtin_convertvector(sums, vec) * (load(page->key_units + key) * row->unit));
}

/* Adds the sums of products of values, of a vector of columns, to what a row mixes. */
INLINE void add_mixed(const AttentionRow *row, int64_t column, ivec sums, float unit, vec shrink) {
    float *place = row->mixed + column;
    store(place, fma_vec(__builtin_convertvector(sums, vec), splat(unit), load(place) * shrink));
}

/* Turns a row's logits into weights, and leaves these times the units of their values; of the
 * latter `sum` is the sum and `best` the largest, by lane. */
INLINE void weigh_seen(int is_masked, const AttentionRow *row, const Page *page, int64_t seen,
                       float *weights, vec shrink, vec *sum, vec *best) {
    vec total = load(row->weights) * shrink;
    float now = *row->largest;
    *sum = *best = (vec){0};
    for (int key = 0; key < PAGE; key += LANES) {
        vec weight = exp2_vec(load(weights + key) - now);
        if (is_masked) weight = up_to(weight, seen - key); /* they are tiny, and must be 0 */
        total = total + weight;
        weight = weight * load(page->value_units + key);
        if (is_masked) weight = up_to(weight, seen - key); /* what a page held before may be NaN */
        *sum = *sum + weight;
        *best = vmax(*best, weight);
        store(weights + key, weight);
    }
    store(row->weights, total);
}

INLINE void weigh_row(const AttentionRow *row, const Page *page, int64_t first_key, float *weights,
                      vec shrink, vec *sum, vec *best) {
    int64_t seen = keys_seen(row, first_key);
    if (seen < PAGE) weigh_seen(1, row, page, seen, weights, shrink, sum, best);
    else weigh_seen(0, row, page, seen, weights, shrink, sum, best);
}

/* Turns weights times the units of their values into the integers `whole`, from what weigh_row left
 * of each row; `units` are the sizes of a unit. What is the same for all rows is done for a vector
 * of them. */
INLINE void round_weights(int rows, float weights[][PAGE], const vec *sum, const vec *best,
                          int16_t whole[][PAGE], float *units) {
    float sums[ROW_LANES], largest[ROW_LANES], per_unit[ROW_LANES];
    sums_of_rows(rows, sum, sums);
    max_of_rows(rows, best, largest);
    for (int r = 0; r < rows; r += LANES) {
        vec unit = vmax(load(largest + r) / 32767.0f, load(sums + r) / WEIGHT_SUM);
        unit = vmax(splat(1e-30f), unit);
        store(units + r, unit);
        store(per_unit + r, 1.0f / unit);
    }
    for (int r = 0; r < rows; r++) {
        if (isfinite(units[r])) {
            to_integers(weights[r], PAGE, per_unit[r], whole[r]);
            continue;
        }
        units[r] = NAN; /* of a value: make NaN of everything that attends to it */
        memset(whole[r], 0, sizeof whole[r]);
    }
}

/* Logits of `rows` queries. */
INLINE void find_logits(int rows, const AttentionRow *row, const Page *page, int64_t head_dim,
                        float logits[TILE][PAGE]) {
    for (int first = 0; first < PAGE; first += WIDTH) {
        ivec sums[TILE][PARTS];
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < PARTS; part++) sums[r][part] = (ivec){0};
        for (int64_t d = 0; d < head_dim; d += 2) {
            ivec k[PARTS];
            for (int part = 0; part < PARTS; part++)
                k[part] = *(const ivec *)(page->keys + d * PAGE + 2 * (first + part * LANES));
            for (int r = 0; r < rows; r++) {
                int32_t pair = load_int32(row[r].query + d);
                for (int part = 0; part < PARTS; part++)
                    sums[r][part] = dot_pairs(sums[r][part], pair, k[part]);
            }
        }
        for (int part = 0; part < PARTS; part++)
            for (int r = 0; r < rows; r++)
                put_logits(row + r, page, first + part * LANES, sums[r][part], logits[r]);
    }
}

/* Mixes `parts` vectors of columns of the first `num_keys` values. */
INLINE void mix_values(int rows, int parts, const AttentionRow *row, const Page *page,
                       int64_t num_keys, int64_t head_dim, int64_t column,
                       int16_t whole[TILE][PAGE], const float *units, const vec *shrink) {
    ivec sums[TILE][PARTS];
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < parts; part++) sums[r][part] = (ivec){0};
    for (int64_t key = 0; key < num_keys; key += 2) {
        ivec v[PARTS];
        for (int part = 0; part < parts; part++)
            v[part] = *(const ivec *)(page->values + key * head_dim + 2 * (column + part * LANES));
        for (int r = 0; r < rows; r++) {
            int32_t pair = load_int32(whole[r] + key);
            for (int part = 0; part < parts; part++)
                sums[r][part] = dot_pairs(sums[r][part], pair, v[part]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < parts; part++)
            add_mixed(row + r, column + part * LANES, sums[r][part], units[r], shrink[r]);
}

/* `rows` queries against one page. */
INLINE void attend_tile(int rows, const AttentionRow *row, const Page *page, int64_t first_key,
                        int64_t head_dim) {
    float weights[TILE][PAGE]; /* logits at first */
    int16_t whole[TILE][PAGE];
    float units[ROW_LANES];
    vec shrink[TILE], sum[TILE], best[TILE];
    find_logits(rows, row, page, head_dim, weights);
    raise_largest(rows, row, first_key, weights, shrink);
    for (int r = 0; r < rows; r++)
        weigh_row(row + r, page, first_key, weights[r], shrink[r], sum + r, best + r);
    round_weights(rows, weights, sum, best, whole, units);
    int64_t num_keys = keys_seen(row + rows - 1, first_key); /* the last row sees the most */
    if (num_keys > PAGE) num_keys = PAGE;
    int64_t column = 0;
    for (; column + WIDTH <= head_dim; column += WIDTH)
        mix_values(rows, PARTS, row, page, num_keys, head_dim, column, whole, units, shrink);
    for (; column < head_dim; column += LANES)
        mix_values(rows, 1, row, page, num_keys, head_dim, column, whole, units, shrink);
}
