/* Attention of a few queries to one page of keys and values, in single precision. */

#pragma once

#include <math.h>

#include "exponentials.h"
#include "isa.h"
#include "structures.h"

#define PAGE 64 /* positions of a page of keys and values */

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

typedef struct {
    const float *query; /* [head_dim] */
    float unit;         /* log2(e) / sqrt(head_dim): weights are 2^logit */
    float *mixed;       /* [head_dim], the running weighted sum */
    float *largest;     /* the running maximum of the logits */
    float *weights;     /* [LANES], the running sum of the weights, by lane */
    int64_t position;
} AttentionRow;

/* The first `count` lanes of x, which may be all or none, and 0 in the others. */
INLINE vec up_to(vec x, int64_t count) {
    for (int64_t lane = count > 0 ? count : 0; lane < LANES; lane++) x[lane] = 0;
    return x;
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
    float shrinks[(TILE + LANES - 1) / LANES * LANES] = {0};
    vec shrink[TILE];
    int64_t seen[TILE]; /* keys; what a page holds after them is masked, and may be anything */
    for (int r = 0; r < rows; r++) {
        int64_t count = row[r].position - first_key + 1;
        seen[r] = count < PAGE ? count : PAGE;
    }
    find_logits(rows, row, page, seen[rows - 1], head_dim, weights);
    for (int r = 0; r < rows; r++) {
        for (int64_t key = seen[r]; key < PAGE; key++) weights[r][key] = -INFINITY;
        vec best = load(weights[r]);
        for (int key = LANES; key < PAGE; key += LANES) best = vmax(best, load(weights[r] + key));
        float before = *row[r].largest, now = max_lanes(best);
        if (now < before) now = before;
        *row[r].largest = now;
        shrinks[r] = before - now;
    }
    for (int r = 0; r < rows; r += LANES) store(shrinks + r, exp2_vec(load(shrinks + r)));
    for (int r = 0; r < rows; r++) {
        shrink[r] = splat(shrinks[r]);
        vec total = load(row[r].weights) * shrink[r];
        for (int key = 0; key < PAGE; key += LANES) {
            vec weight = exp2_vec(load(weights[r] + key) - *row[r].largest);
            weight = up_to(weight, seen[r] - key); /* masked ones are tiny, and must be 0 */
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
