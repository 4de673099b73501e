/* Attention of a few queries to one page of keys and values, in single precision. */

#pragma once

#include <math.h>

#include "attention_row.h"
#include "exponentials.h"
#include "isa.h"
#include "structures.h"

/* A page of one layer and one key head. */
typedef struct {
    const float *keys;   /* [head_dim][64] */
    const float *values; /* [64][head_dim] */
} Page;

static int64_t head_bytes(const Model *m) {
    return 2 * PAGE * m->head_dim * (int64_t)sizeof(float);
}

static Page page_of(const Model *m, char *layer, int64_t kv_head) {
    const float *keys = (const float *)(layer + kv_head * head_bytes(m));
    return (Page){keys, keys + PAGE * m->head_dim};
}

/* Logits of `rows` queries, of all keys of the page up to the last that one of them sees. */
INLINE void find_logits(int rows, const AttentionRow *row, const Page *page, int64_t num_keys,
                        int64_t head_dim, float logits[TILE][PAGE]) {
    for (int64_t first = 0; first < num_keys; first += WIDTH) {
        vec sums[TILE][PARTS];
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < PARTS; part++) sums[r][part] = (vec){0};
        for (int64_t d = 0; d < head_dim; d++) {
            vec k[PARTS];
            for (int part = 0; part < PARTS; part++)
                k[part] = load(page->keys + d * PAGE + first + part * LANES);
            for (int r = 0; r < rows; r++) {
                vec query = splat(row[r].query[d]);
                for (int part = 0; part < PARTS; part++)
                    sums[r][part] = fma_vec(query, k[part], sums[r][part]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < PARTS; part++)
                store(logits[r] + first + part * LANES, sums[r][part] * row[r].unit);
    }
}

/* Adds values times weights to `parts` vectors of columns of what each row mixes. Rows are
 * ascending: later keys than `shared` are seen by the last ones only. */
INLINE void mix_values(int rows, int parts, const AttentionRow *row, const Page *page,
                       const int64_t *seen, int64_t head_dim, int64_t column,
                       float weights[TILE][PAGE], const vec *shrink) {
    vec sums[TILE][PARTS];
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < parts; part++) sums[r][part] = (vec){0};
    int64_t key = 0;
    for (; key < seen[0]; key++) {
        vec v[PARTS];
        for (int part = 0; part < parts; part++)
            v[part] = load(page->values + key * head_dim + column + part * LANES);
        for (int r = 0; r < rows; r++) {
            vec weight = splat(weights[r][key]);
            for (int part = 0; part < parts; part++)
                sums[r][part] = fma_vec(weight, v[part], sums[r][part]);
        }
    }
    for (; key < seen[rows - 1]; key++)
        for (int r = 0; r < rows; r++)
            for (int part = 0; part < parts && key < seen[r]; part++)
                sums[r][part] =
                    fma_vec(splat(weights[r][key]),
                            load(page->values + key * head_dim + column + part * LANES),
                            sums[r][part]);
    for (int r = 0; r < rows; r++)
        for (int part = 0; part < parts; part++) {
            float *place = row[r].mixed + column + part * LANES;
            store(place, fma_vec(load(place), shrink[r], sums[r][part]));
        }
}

/* `rows` queries against one page. */
INLINE void attend_tile(int rows, const AttentionRow *row, const Page *page, int64_t first_key,
                        int64_t head_dim) {
    float weights[TILE][PAGE]; /* logits at first */
    vec shrink[TILE];
    int64_t seen[TILE]; /* keys; what a page holds after them is masked, and may be anything */
    for (int r = 0; r < rows; r++) {
        int64_t count = keys_seen(row + r, first_key);
        seen[r] = count < PAGE ? count : PAGE;
    }
    find_logits(rows, row, page, seen[rows - 1], head_dim, weights);
    raise_largest(rows, row, first_key, weights, shrink);
    for (int r = 0; r < rows; r++) {
        vec total = load(row[r].weights) * shrink[r];
        for (int key = 0; key < PAGE; key += LANES) {
            vec weight = exp2_vec(load(weights[r] + key) - *row[r].largest);
            if (seen[r] < PAGE) weight = up_to(weight, seen[r] - key); /* tiny, and must be 0 */
            total = total + weight;
            store(weights[r] + key, weight);
        }
        store(row[r].weights, total);
    }
    int64_t column = 0;
    for (; column + WIDTH <= head_dim; column += WIDTH)
        mix_values(rows, PARTS, row, page, seen, head_dim, column, weights, shrink);
    for (; column < head_dim; column += LANES)
        mix_values(rows, 1, row, page, seen, head_dim, column, weights, shrink);
}
