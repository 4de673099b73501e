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

/* With inputs shifted by 128, every sum would be too large by 128 times the column's weights. */
INLINE ivec first_sum(int bits, const Linear *linear, int64_t column) {
    ivec first = {0};
    if (INPUT_SHIFT != 0 && bits == 8) first -= INPUT_SHIFT * *(const ivec *)(linear->sums + column);
    return first;
}

/* Stores a row's sums, of the parts of tile `block`, as `finish` says. */
INLINE void finish_row(const Linear *linear, int64_t column, int block, const ivec *sums,
                       float row_scale, float *to, Finish finish) {
    vec value[PARTS];
    for (int part = 0; part < PARTS; part++) {
        int64_t at = column + part_column(block, part);
        vec scale = load(linear->scales + at) * splat(row_scale);
        vec bias = linear->bias ? load(linear->bias + at) : (vec){0};
        value[part] = fma_vec(__builtin_convertvector(sums[part], vec), scale, bias);
    }
    if (finish == SWIGLU) {
        for (int part = 0; part < PARTS / 2; part++)
            store(to + column / 2 + part_column(block, part),
                  silu(value[part]) * value[part + PARTS / 2]);
        return;
    }
    for (int part = 0; part < PARTS; part++) {
        float *place = to + column + part_column(block, part);
        if (finish == ADD) value[part] = load(place) + value[part];
        store(place, value[part]);
    }
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
        ivec first = first_sum(bits, linear, column + part_column(block, part));
        for (int row = 0; row < rows; row++) sums[row][part] = first;
    }
    for (int64_t step = 0; step < steps; step++, panel += PANEL) {
        ivec b[PARTS];
        for (int part = 0; part < PARTS; part++) {
            const int32_t *place = panel + part_column(block, part);
            b[part] = *(const ivec *)place;
            __builtin_prefetch(place + 8 * PANEL); /* 8 steps ahead */
        }
        UNROLLED
        for (int row = 0; row < rows; row++)
            for (int part = 0; part < PARTS; part++)
                sums[row][part] =
                    dot_step(bits, sums[row][part], input + row * linear->depth * 2, b[part]);
        input += bits == 8 ? FOUR_BYTES : 4;
    }
    UNROLLED_BY_CLANG /* or it also stores the sums of 8 bits, in every step */
    for (int row = 0; row < rows; row++)
        finish_row(linear, column, block, sums[row], row_scales[row], out + row * out_stride, finish);
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

#if HAS_BLOCKS
/* The same sums by blocks of rows: both sides are rearranged first, in `room`. */
INLINE void linear_in_blocks(int bits, Finish finish, const Linear *linear, const int16_t *inputs,
                             const float *row_scales, int64_t rows, float *out, int64_t out_stride,
                             char *room) {
    const int64_t depth = linear->depth, steps = depth * bits / 32;
    char *panel = room, *packed = room + packed_panel_bytes(depth, PANEL);
    pack_rows(bits, inputs, rows, depth, packed);
    begin_blocks();
    for (int64_t column = 0; column < linear->width; column += PANEL) {
        pack_panel(bits, linear->panels + column * steps, depth, PANEL, panel);
        for (int64_t first = 0; first < rows; first += BLOCK_ROWS) {
            int64_t count = rows - first < BLOCK_ROWS ? rows - first : BLOCK_ROWS;
            int32_t sums[BLOCK_ROWS * PANEL];
            multiply_block(bits, count, packed + packed_rows_bytes(first, depth), panel, depth,
                           PANEL, sums);
            for (int64_t row = 0; row < count; row++)
                for (int block = 0; block < PANEL / WIDTH; block++) {
                    ivec parts[PARTS];
                    for (int part = 0; part < PARTS; part++) {
                        int place = part_column(block, part);
                        parts[part] = *(const ivec *)(sums + row * PANEL + place) +
                                      first_sum(bits, linear, column + place);
                    }
                    finish_row(linear, column, block, parts, row_scales[first + row],
                               out + (first + row) * out_stride, finish);
                }
        }
    }
    end_blocks();
}

static int64_t linear_room_bytes(int64_t rows, int64_t depth) {
    return packed_panel_bytes(depth, PANEL) + packed_rows_bytes(rows, depth);
}
#else /* nothing is rearranged */
#define linear_in_blocks(bits, finish, l, in, scales, n, out, stride, room) (void)(room)
static int64_t linear_room_bytes(int64_t rows, int64_t depth) { return 0 * rows * depth; }
#endif

/* One function per finish and number of bits, so that each gets a loop of its own. */
#define LINEAR_OF(bits, name, finish)                                                           \
    static void name##_##bits(const Linear *l, const int16_t *in, const float *scales, int64_t n, \
                              float *out, int64_t stride, char *room) {                         \
        if (n < MANY_ROWS) linear_as(bits, finish, l, in, scales, n, out, stride);              \
        else linear_in_blocks(bits, finish, l, in, scales, n, out, stride, room);               \
    }
#define LINEAR(name, finish)                                                                    \
    LINEAR_OF(16, name, finish)                                                                 \
    LINEAR_OF(8, name, finish)                                                                  \
    static void name(const Linear *l, const int16_t *in, const float *scales, int64_t n,        \
                     float *out, int64_t stride, char *room) {                                  \
        (l->bits == 8 ? name##_8 : name##_16)(l, in, scales, n, out, stride, room);             \
    }
LINEAR(linear_store, STORE)
LINEAR(linear_add, ADD)
LINEAR(linear_swiglu, SWIGLU)
