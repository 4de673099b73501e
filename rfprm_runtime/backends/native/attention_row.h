/* What attention in integers and in single precision share. */

#pragma once

#include <math.h>

#include "exponentials.h"
#include "isa.h"

#define PAGE 64 /* positions of a page of keys and values */
#define MOST_ROWS (BLOCK_ROWS > TILE ? BLOCK_ROWS : TILE) /* that meet a page at once */
#define ROW_LANES ((MOST_ROWS + LANES - 1) / LANES * LANES) /* a number for each, as whole vectors */

typedef struct {
    const number *query; /* [head_dim] */
    float unit;          /* of the query, times log2(e) / sqrt(head_dim): weights are 2^logit */
    float *mixed;        /* [head_dim], the running weighted sum */
    float *largest;      /* the running maximum of the logits; those of the rows follow each other */
    float *weights;      /* [LANES], the running sum of the weights, by lane */
    int64_t position;
} AttentionRow;

/* The keys of a page, from `first_key` on, that a row sees: more than PAGE if those of later pages
 * too, 0 or less if none. */
INLINE int64_t keys_seen(const AttentionRow *row, int64_t first_key) {
    return row->position - first_key + 1;
}

/* The first `count` lanes of x, which may be all or none, and 0 in the others. */
INLINE vec up_to(vec x, int64_t count) {
    int32_t most = count < 0 ? 0 : count > LANES ? LANES : (int32_t)count;
    return (vec)((ivec)x & (*(const ivec *)LANE_NUMBERS < most));
}

/* Masks the logits of keys after a row's position and raises its running maximum. `shrink` is what
 * its sums so far are worth then. */
INLINE void raise_largest(int rows, const AttentionRow *row, int64_t first_key,
                          float logits[][PAGE], vec *shrink) {
    vec best[MOST_ROWS];
    float now[ROW_LANES], shrinks[ROW_LANES];
    for (int r = 0; r < rows; r++) {
        for (int64_t key = keys_seen(row + r, first_key); key < PAGE; key++)
            logits[r][key] = -INFINITY;
        best[r] = load(logits[r]);
        for (int key = LANES; key < PAGE; key += LANES)
            best[r] = vmax(best[r], load(logits[r] + key));
    }
    max_of_rows(rows, best, now);
    for (int r = 0; r < rows; r += LANES) {
        vec before = load(row->largest + r), larger = vmax(before, load(now + r));
        store(now + r, larger);
        store(shrinks + r, exp2_vec(before - larger));
    }
    memcpy(row->largest, now, (size_t)rows * sizeof *now);
    for (int r = 0; r < rows; r++) shrink[r] = splat(shrinks[r]);
}
