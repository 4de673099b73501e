/* Linears in single precision: rows of inputs times a matrix [depth][width], as files hold it.
 *
 * A block of the matrix is copied, so that tiles read it without gaps, while the next one is on its
 * way from memory. Every sum adds its products one after another, from the first input to the last,
 * whatever the tile and the blocks are. */

#pragma once

#include <string.h>

#include "exponentials.h"
#include "isa.h"
#include "structures.h"

#define GROUP (WIDTH > 32 ? WIDTH : 32) /* columns of a block, in two sides: of a gated linear */
#define SIDE (GROUP / 2)                /* gates and their ups, so that they meet in one tile */
#define STRIPS (GROUP / WIDTH)
#define DEPTH (24576 / GROUP) /* inputs of a block, at most: it has 96 KiB */
#define CHUNK (16 * TILE)     /* rows that meet one strip after another */
#define LINE 16               /* numbers that come from memory together */
#define STEP (2 * LINE)       /* inputs that are multiplied before more is fetched */

typedef enum { STORE, ADD, SWIGLU } Finish;

/* The columns of one side of a group: [depth][stride] from `from` on. */
typedef struct {
    const float *from;
    int64_t stride, count; /* a side that is not full has fewer columns than SIDE, or none */
} Side;

typedef struct {
    int64_t depth;
    int is_first, is_last; /* of the blocks of a group */
    const float *weights;  /* [STRIPS][depth][WIDTH]; a half of a strip belongs to either side */
    const float *bias;     /* [STRIPS][WIDTH] */
    Side next[2];          /* of the next block, from the row on that is fetched next */
    int64_t num_next, at_once; /* rows of it to fetch; so many in a step */
} Block;

/* Starts to bring some rows of the next block near. */
INLINE void fetch_weights(Block *block) {
    for (int64_t i = 0; i < block->at_once && block->num_next > 0; i++, block->num_next--)
        for (Side *side = block->next; side < block->next + 2; side++) {
            for (int column = 0; column < SIDE; column += LINE)
                __builtin_prefetch(side->from + column, 0, 2);
            side->from += side->stride;
        }
}

/* Starts to bring a step of the next tile's inputs near. Rows are far apart: a processor that
 * fetches ahead by itself begins anew with each, too late for its first lines. Past the last row it
 * does no harm. */
INLINE void fetch_inputs(int rows, const float *inputs, int64_t stride) {
    for (int line = 0; line < STEP; line += LINE)
        for (int row = 0; row < rows; row++)
            __builtin_prefetch(inputs + row * stride + line, 0, 3);
}

INLINE int column_in_group(int strip, int part) {
    int side = part / (PARTS / 2), here = part % (PARTS / 2);
    return side * SIDE + (strip * (PARTS / 2) + here) * LANES;
}

/* `rows` x WIDTH columns of a block. `sums` are those of the blocks before: [rows][GROUP]. */
INLINE void float_tile(int rows, Block *block, int strip, const float *inputs, int64_t stride,
                       float *sums, float *out, int64_t out_stride, Finish finish) {
    vec total[TILE][PARTS];
    const float *weights = block->weights + strip * block->depth * WIDTH;
    for (int row = 0; row < rows; row++)
        for (int part = 0; part < PARTS; part++)
            total[row][part] = block->is_first
                                   ? (vec){0}
                                   : load(sums + row * GROUP + strip * WIDTH + part * LANES);
    for (int64_t at = 0; at < block->depth;) {
        int64_t end = block->depth - at < STEP ? block->depth : at + STEP;
        fetch_weights(block);
        if (strip == 0) fetch_inputs(rows, inputs + rows * stride + at, stride);
        for (; at < end; at++, weights += WIDTH) {
            vec b[PARTS];
            for (int part = 0; part < PARTS; part++) b[part] = load(weights + part * LANES);
            for (int row = 0; row < rows; row++) {
                vec x = splat(inputs[row * stride + at]);
                for (int part = 0; part < PARTS; part++)
                    total[row][part] = fma_vec(x, b[part], total[row][part]);
            }
        }
    }
    for (int row = 0; row < rows; row++, sums += GROUP, out += out_stride) {
        vec *value = total[row];
        for (int part = 0; part < PARTS; part++) {
            if (block->is_last)
                value[part] = value[part] + load(block->bias + strip * WIDTH + part * LANES);
            else
                store(sums + strip * WIDTH + part * LANES, value[part]);
        }
        if (!block->is_last) continue;
        for (int part = 0; part < (finish == SWIGLU ? PARTS / 2 : PARTS); part++) {
            float *place = out + column_in_group(strip, part);
            if (finish == SWIGLU) value[part] = silu(value[part]) * value[part + PARTS / 2];
            if (finish == ADD) value[part] = load(place) + value[part];
            store(place, value[part]);
        }
    }
}

/* A function for each height, so that the compiler finds registers for each loop alone. */
_Static_assert(TILE == 6, "TILES has a function for each height");
typedef void Tile(Block *, int, const float *, int64_t, float *, float *, int64_t, Finish);
#define TILE_OF(rows)                                                                            \
    static __attribute__((noinline)) void float_tile_##rows(                                     \
        Block *block, int strip, const float *inputs, int64_t stride, float *sums, float *out,   \
        int64_t out_stride, Finish finish) {                                                     \
        float_tile(rows, block, strip, inputs, stride, sums, out, out_stride, finish);           \
    }
TILE_OF(1) TILE_OF(2) TILE_OF(3) TILE_OF(4) TILE_OF(5) TILE_OF(6)
#undef TILE_OF
static Tile *const TILES[TILE + 1] = {0,            float_tile_1, float_tile_2, float_tile_3,
                                      float_tile_4, float_tile_5, float_tile_6};

static void multiply_strips(Block *block, const float *inputs, int64_t stride, int64_t rows,
                           float *sums, float *out, int64_t out_stride, Finish finish) {
    for (int64_t chunk = 0; chunk < rows; chunk += CHUNK) {
        int64_t end = rows - chunk < CHUNK ? rows : chunk + CHUNK, height;
        for (int strip = 0; strip < STRIPS; strip++)
            for (int64_t row = chunk; row < end; row += height) {
                height = end - row < TILE ? end - row : TILE;
                TILES[height](block, strip, inputs + row * stride, stride, sums + row * GROUP,
                              out + row * out_stride, out_stride, finish);
            }
    }
}

/* One side of a group of a matrix or, with one row, of a bias. */
static Side side_of(const float *matrix, int64_t width, int64_t group, int side, Finish finish) {
    int64_t half = finish == SWIGLU ? width / 2 : width;
    int64_t column = finish == SWIGLU ? group * SIDE : group * GROUP + side * SIDE;
    int64_t count = half - column < SIDE ? half - column : SIDE;
    if (count <= 0) return (Side){matrix, width, 0};
    return (Side){matrix + column + (finish == SWIGLU ? side * half : 0), width, count};
}

/* To [STRIPS][depth][WIDTH], of which one side has half, from `to` on. Missing columns are 0. */
static void copy_side(Side side, int64_t depth, float *to) {
    float edge[SIDE] = {0};
    for (int64_t row = 0; row < depth; row++, side.from += side.stride, to += WIDTH) {
        const float *from = side.from;
        if (side.count < SIDE) from = memcpy(edge, from, (size_t)side.count * sizeof *edge);
        for (int column = 0; column < SIDE; column += LANES)
            store(to + column / (WIDTH / 2) * depth * WIDTH + column % (WIDTH / 2),
                  load(from + column));
    }
}

static void linear_float32(const Linear *linear, const float *inputs, float *work, int64_t rows,
                           float *out, int64_t out_stride, Finish finish) {
    const int64_t depth = linear->depth, width = linear->width;
    const int64_t outputs = finish == SWIGLU ? SIDE : GROUP; /* of a group */
    const int64_t groups = ((finish == SWIGLU ? width / 2 : width) + outputs - 1) / outputs;
    const int64_t blocks = (depth + DEPTH - 1) / DEPTH, step = (depth + blocks - 1) / blocks;
    const int64_t tiles = (rows + TILE - 1) / TILE * STRIPS;
    const float *matrix = (const float *)linear->panels;
    float bias[GROUP] = {0}, *copied = work, *sums = work + DEPTH * GROUP;
    if (rows == 0) return; /* a last layer without markers */
    for (int64_t group = 0; group < groups; group++) {
        for (int side = 0; side < 2 && linear->bias; side++)
            copy_side(side_of(linear->bias, width, group, side, finish), 1,
                      bias + side * (WIDTH / 2));
        for (int64_t first = 0; first < depth; first += step) {
            int64_t here = depth - first < step ? depth - first : step, after = first + here;
            Block block = {
                .depth = here,
                .is_first = first == 0,
                .is_last = after == depth,
                .weights = copied,
                .bias = bias,
                .num_next = step,
                .at_once = (STEP + tiles - 1) / tiles,
            };
            for (int side = 0; side < 2; side++) {
                Side columns = side_of(matrix, width, group, side, finish);
                columns.from += first * width;
                copy_side(columns, here, copied + side * (WIDTH / 2));
                columns.from += here * width;
                block.next[side] = columns;
                if (block.is_last) block.next[side] = side_of(matrix, width, group + 1, side, finish);
            }
            if (!block.is_last && depth - after < step) block.num_next = depth - after;
            if (block.is_last && group + 1 == groups) block.num_next = 0;
            multiply_strips(&block, inputs + first, depth, rows, sums, out + group * outputs,
                           out_stride, finish);
        }
    }
}
