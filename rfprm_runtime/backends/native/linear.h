/* Linears: rows of integer inputs times panels of integer weights. The result is stored, added to
 * what is there, or gated (SwiGLU). */

#pragma once

#include "exponentials.h"
#include "isa.h"
#include "structures.h"

#define HALF (PANEL / 2)

typedef enum { STORE, ADD, SWIGLU } Finish;

/* Adds the products of the inputs at `at` and the weights in `b`: in each lane two of 16 bits or
 * four of 8. */
INLINE ivec dot_step(int bits, ivec sum, const char *at, ivec b) {
    return bits == 16 ? dot_pairs(sum, load_int32(at), b) : dot_fours(sum, at, b);
}

/* The column within a panel of a part of tile `block`: half of the parts lie in the first half of
 * the panel and half in the second, so that gate and up meet in one tile. */
INLINE int part_column(int block, int part) {
    int here = part % (PARTS / 2), half = part / (PARTS / 2);
    return half * HALF + (block * (PARTS / 2) + here) * LANES;
}

/* rows x WIDTH columns of inputs times one panel. */
INLINE void linear_tile(int bits, int rows, const Linear *linear, int64_t column, int block,
                        const int16_t *inputs, const float *row_scales, float *out,
                        int64_t out_stride, Finish finish) {
    ivec sums[TILE][PARTS];
    const int64_t steps = linear->depth * bits / 32;
    const int32_t *panel = linear->panels + column * steps;
    const char *input = (const char *)inputs;
    for (int part = 0; part < PARTS; part++) {
        /* With inputs shifted by 128, every sum is too large by 128 times the column's weights. */
        ivec first = {0};
        if (INPUT_SHIFT != 0 && bits == 8)
            first -= INPUT_SHIFT * *(const ivec *)(linear->sums + column + part_column(block, part));
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
                sums[row][part] =
                    dot_step(bits, sums[row][part], input + row * linear->depth * 2, b[part]);
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

INLINE void linear_as(int bits, Finish finish, const Linear *linear, const int16_t *inputs,
                      const float *row_scales, int64_t rows, float *out, int64_t out_stride) {
#define TILE_OF(n)                                                                              \
    linear_tile(bits, n, linear, column, block, inputs + row * linear->depth, row_scales + row, \
                out + row * out_stride, out_stride, finish)
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

/* One function per finish and number of bits, so that each gets a loop of its own. */
#define LINEAR(name, finish)                                                                   \
    static void name##_16(const Linear *l, const int16_t *in, const float *scales, int64_t n,   \
                          float *out, int64_t stride) {                                         \
        linear_as(16, finish, l, in, scales, n, out, stride);                                  \
    }                                                                                           \
    static void name##_8(const Linear *l, const int16_t *in, const float *scales, int64_t n,    \
                         float *out, int64_t stride) {                                          \
        linear_as(8, finish, l, in, scales, n, out, stride);                                   \
    }                                                                                           \
    static void name(const Linear *l, const int16_t *in, const float *scales, int64_t n,        \
                     float *out, int64_t stride) {                                              \
        (l->bits == 8 ? name##_8 : name##_16)(l, in, scales, n, out, stride);                   \
    }
LINEAR(linear_store, STORE)
LINEAR(linear_add, ADD)
LINEAR(linear_swiglu, SWIGLU)
