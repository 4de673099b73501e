/* What attention in integers and in single precision share. */

#pragma once

#include <math.h>

#include "exponentials.h"
#include "isa.h"

#define PAGE 64 /* positions of a page of keys and values */
#define MOST_ROWS (BLOCK_ROWS > TILE ? BLOCK_ROWS : TILE) /* that meet a page at once */

typedef struct {
    const number *query; /* [head_dim] */
    float unit;          /* of the query, times log2(e) / sqrt(head_dim): weights are 2^logit */
    float *mixed;        /* [head_dim], the running weighted sum */
    float *largest;      /* the running maximum of the logits */
    float *weights;      /* [LANES], the running sum of the weights, by lane */
    int64_t position;
} AttentionRow;

/* The first `count` lanes of x, which may be all or none, and 0 in the others. */
INLINE vec up_to(vec x, int64_t count) {
    for (int64_t lane = count > 0 ? count : 0; lane < LANES; lane++) x[lane] = 0;
    return x;
}

/* Masks the logits of keys after a row's position and raises its running maximum. `shrink` is what
 * its sums so far are worth then. */
INLINE void raise_largest(int rows, const AttentionRow *row, int64_t first_key,
                          float logits[][PAGE], vec *shrink) {
    float shrinks[(MOST_ROWS + LANES - 1) / LANES * LANES] = {0};
    for (int r = 0; r < rows; r++) {
        int64_t seen = row[r].position - first_key + 1;
        for (int64_t key = seen; key < PAGE; key++) logits[r][key] = -INFINITY;
        vec best = load(logits[r]);
        for (int key = LANES; key < PAGE; key += LANES) best = vmax(best, load(logits[r] + key));
        float before = *row[r].largest, now = max_lanes(best);
        if (now < before) now = before;
        *row[r].largest = now;
        shrinks[r] = before - now;
    }
    for (int r = 0; r < rows; r += LANES) store(shrinks + r, exp2_vec(load(shrinks + r)));
    for (int r = 0; r < rows; r++) shrink[r] = splat(shrinks[r]);
}
