/* Integers of 16 or 8 bits, each row with a unit of its own. Sums of their products are exact. */

#pragma once

typedef int16_t number;

#include "attention.h"
#include "attention_blocks.h"
#include "linear.h"
#include "rows.h"
#include "structures.h"
#include "weights.h"

static int64_t work_bytes(int64_t rows, int64_t depth, int64_t queries, int64_t head_dim) {
    int64_t linear = linear_room_bytes(depth);
    int64_t attention = attention_room_bytes(queries, head_dim);
    (void)rows;
    return linear > attention ? linear : attention;
}

static void store_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                           int64_t stride) {
    linear_store(l, x->numbers, x->units, rows, out, stride, x->work);
}

static void add_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                         int64_t stride) {
    linear_add(l, x->numbers, x->units, rows, out, stride, x->work);
}

static void gate_products(const Linear *l, const Inputs *x, int64_t rows, float *out,
                          int64_t stride) {
    linear_swiglu(l, x->numbers, x->units, rows, out, stride, x->work);
}

/* Turns rows of inputs into the integers that `linear` takes. */
static void quantise_inputs(int64_t rows, const float *row, int64_t stride, const Linear *linear,
                            int16_t *out, float *units) {
    int64_t depth = linear->depth;
    if (linear->bits == 16) {
        quantise(rows, row, stride, depth, 32767, linear->activation_limit, out, depth, units);
        return;
    }
    quantise(rows, row, stride, depth, 127, INFINITY, out, depth, units);
    for (int64_t r = 0; r < rows; r++) narrow(out + r * depth, depth);
}

/* From MANY_ROWS rows on each block of them is packed once it is full, behind its own room. */
static int64_t input_bytes(int64_t rows, int64_t depth) {
    int64_t plain = (HAS_BLOCKS ? BLOCK_ROWS : rows) * depth * (int64_t)sizeof(number);
    return plain + linear_packed_bytes(rows, depth);
}

static void take_some(const Inputs *x, int64_t row, int64_t count, int64_t rows,
                         const float *from, int64_t stride, const Linear *linear) {
    int64_t place = rows < MANY_ROWS ? row : ROW_IN_BLOCK(row), end = place + count;
    number *block = x->numbers;
    quantise_inputs(count, from, stride, linear, block + place * linear->depth, x->units + row);
    if (rows >= MANY_ROWS && (end == BLOCK_ROWS || row + count == rows))
        pack_inputs(linear, block, row - place, end);
}

static void take_queries(int64_t count, const float *head, int64_t size, number *out,
                         float *units) {
    quantise(count, head, size, size, 32767, QUERY_NORM(size), out, size, units);
}

/* `whole`: room for one head. */
static void place_key(const Page *page, int64_t slot, const float *head, int64_t size,
                      float *line) {
    int16_t *keys = (int16_t *)page->keys + 2 * slot, *whole = (int16_t *)line;
    quantise(1, head, 0, size, 32767, QUERY_NORM(size), whole, 0, (float *)page->key_units + slot);
    for (int64_t d = 0; d < size; d += 2) memcpy(keys + d * PAGE, whole + d, 4);
}

static void place_value(const Page *page, int64_t slot, const float *head, int64_t size,
                        float *line) {
    int16_t *values = (int16_t *)page->values + (slot & ~1) * size + (slot & 1);
    int16_t *whole = (int16_t *)line;
    quantise(1, head, 0, size, LARGEST_VALUE, INFINITY, whole, 0,
             (float *)page->value_units + slot);
    for (int64_t d = 0; d < size; d++) values[2 * d] = whole[d];
}

static void embed_row(const Model *m, int64_t id, float *to) {
    const int16_t *from = (const int16_t *)m->embedding + id * m->hidden;
    float unit = m->embedding_scale[id];
    for (int64_t i = 0; i < m->hidden; i++) to[i] = (float)from[i] * unit;
}

/* With 16 bits: the largest sum of squares of a column's weights, which limits its inputs. With 8
 * bits: the number of columns whose `sums` are not those of their weights. */
static int64_t examine(const Linear *linear) {
    int64_t steps = linear->depth * linear->bits / 32, found = 0;
    for (int64_t column = 0; column < linear->width; column += PANEL) {
        const int32_t *panel = (const int32_t *)linear->panels + column * steps;
        if (linear->bits == 16) {
            int64_t longest = longest_in_panel((const int16_t *)panel, steps);
            if (longest > found) found = longest;
        } else {
            found += wrong_sums_of_panel((const int8_t *)panel, steps, linear->sums + column);
        }
    }
    return found;
}
