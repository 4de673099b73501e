/* Single precision throughout. Sums have an order that depends on nothing but the depth of a linear,
 * the size of a head or the position of a key. */

#pragma once

#include <float.h>
#include <math.h>
#include <string.h>

#include "isa.h"

typedef float number;
#undef TILE
#define TILE 6 /* also where integers take another */

#include "attention_float32.h"
#include "linear_float32.h"
#include "rows.h"
#include "structures.h"

static void store_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                           int64_t stride) {
    linear_float32(l, x->numbers, x->work, rows, out, stride, STORE);
}

static void add_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                         int64_t stride) {
    linear_float32(l, x->numbers, x->work, rows, out, stride, ADD);
}

static void gate_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                          int64_t stride) {
    linear_float32(l, x->numbers, x->work, rows, out, stride, SWIGLU);
}

#define MANY_QUERIES INT64_MAX /* never */
#define pack_queries(count, row, head_dim, work) (void)(work)
#define attend_in_blocks(first, count, row, page, first_key, head_dim, work) (void)(work)

static int64_t work_bytes(int64_t rows, int64_t depth, int64_t queries, int64_t head_dim) {
    (void)depth, (void)queries, (void)head_dim;
    return (DEPTH + rows) * GROUP * (int64_t)sizeof(float);
}

static int64_t input_bytes(int64_t rows, int64_t depth) {
    return rows * depth * (int64_t)sizeof(number);
}

static void take_some(const Inputs *x, int64_t row, int64_t count, int64_t rows,
                         const float *from, int64_t stride, const Linear *linear) {
    number *to = (number *)x->numbers + row * linear->depth;
    (void)rows;
    for (; count > 0; count--, from += stride, to += linear->depth)
        memcpy(to, from, (size_t)linear->depth * sizeof(number));
}

static void take_queries(int64_t count, const float *head, int64_t size, number *out,
                         float *units) {
    memcpy(out, head, (size_t)(count * size) * sizeof *out);
    for (int64_t h = 0; h < count; h++) units[h] = 1;
}

static void place_key(const Page *page, int64_t slot, const float *head, int64_t size,
                      float *line) {
    float *keys = (float *)page->keys + slot, none = 0;
    (void)line;
    for (int64_t d = 0; d < size; d++) none += head[d] * 0.0f;
    /* `none` is NaN if a number is not finite. A logit of minus infinity would hide such a key. */
    for (int64_t d = 0; d < size; d++) keys[d * PAGE] = head[d] + none;
}

static void place_value(const Page *page, int64_t slot, const float *head, int64_t size,
                        float *line) {
    (void)line;
    memcpy((float *)page->values + slot * size, head, (size_t)size * sizeof *head);
}

static void embed_row(const Model *m, int64_t id, float *to) {
    const float *from = (const float *)m->embedding + id * m->hidden;
    memcpy(to, from, (size_t)m->hidden * sizeof *to);
}

/* The number of weights that are not finite. */
static int64_t examine(const Linear *linear) {
    const float *weights = (const float *)linear->panels;
    int64_t found = 0, count = linear->depth * linear->width;
    for (int64_t i = 0; i < count; i++) found += !(fabsf(weights[i]) <= FLT_MAX);
    return found;
}
