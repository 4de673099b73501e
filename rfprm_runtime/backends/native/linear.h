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

/* What sums are worth. Every way through a linear comes here, and so gets the same bits. */
INLINE vec worth(ivec sums, vec scale, float row_scale, vec bias) {
    return fma_vec(__builtin_convertvector(sums, vec), scale * splat(row_scale), bias);
}

INLINE vec bias_at(const Linear *linear, int64_t column) {
    return linear->bias ? load(linear->bias + column) : (vec){0};
}

/* Stores a row's sums, of the parts of tile `block`, as `finish` says. */
INLINE void finish_row(const Linear *linear, int64_t column, int block, const ivec *sums,
                       float row_scale, float *to, Finish finish) {
    vec value[PARTS];
    for (int part = 0; part < PARTS; part++) {
        int64_t at = column + part_column(block, part);
        value[part] = worth(sums[part], load(linear->scales + at), row_scale, bias_at(linear, at));
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

/* The panel after the one in use, which comes from memory meanwhile, a share of it with each of
 * `parts` parts of the work. */
typedef struct {
    const char *from, *end;
    int64_t share;
} NextPanel;

INLINE NextPanel next_panel(const Linear *linear, int64_t column, int64_t parts) {
    int64_t bytes = linear->depth * linear->bits / 32 * PANEL * (int64_t)sizeof(int32_t);
    const char *from = (const char *)linear->panels + (column / PANEL + 1) * bytes;
    parts = most(parts, 1);
    return (NextPanel){from, from + (column + PANEL < linear->width ? bytes : 0),
                       round_up(bytes, 64 * parts) / parts};
}

INLINE void fetch_share(NextPanel *next) {
    if (next->from >= next->end) return;
    for (int64_t i = 0; i < next->share; i += 64) __builtin_prefetch(next->from + i, 0, 2);
    next->from += next->share;
}

INLINE void linear_as(int bits, Finish finish, const Linear *linear, const int16_t *inputs,
                      const float *row_scales, int64_t rows, float *out, int64_t out_stride) {
#define TILE_OF(n)                                                                              \
    linear_tile(bits, n, linear, column, block, inputs + row * linear->depth, row_scales + row, \
                out + row * out_stride, out_stride, finish)
    for (int64_t column = 0; column < linear->width; column += PANEL) {
        NextPanel next = next_panel(linear, column, (rows + TILE - 1) / TILE * (PANEL / WIDTH));
        for (int block = 0; block < PANEL / WIDTH; block++) {
            int64_t row = 0;
            for (; row + TILE <= rows; row += TILE) {
                TILE_OF(TILE);
                fetch_share(&next);
            }
            switch (rows - row) {
            case 5: TILE_OF(5); break;
            case 4: TILE_OF(4); break;
            case 3: TILE_OF(3); break;
            case 2: TILE_OF(2); break;
            case 1: TILE_OF(1); break;
            }
        }
    }
#undef TILE_OF
}

#if HAS_BLOCKS
/* The sums of a slice of a block, and what becomes of them. */
typedef struct {
    const int32_t *sums;
    int64_t column, rows; /* of the panel; of the block */
    const float *row_scales;
    float *out;
} Slice;

/* Finishes 16 columns, one of the four groups of a panel. Gates, the first two, wait for their ups
 * in `gates`. */
INLINE void finish_group(int bits, Finish finish, const Linear *linear, const Slice *slice,
                         int group, int64_t out_stride, float gates[2][BLOCK_ROWS][16]) {
    const int64_t column = slice->column + 16 * group;
    float *out = slice->out + (finish == SWIGLU ? slice->column / 2 + 16 * (group - 2) : column);
    vec scales[16 / LANES], bias[16 / LANES];
    ivec first[16 / LANES];
    for (int i = 0; i < 16 / LANES; i++) {
        scales[i] = load(linear->scales + column + i * LANES);
        bias[i] = bias_at(linear, column + i * LANES);
        first[i] = first_sum(bits, linear, column + i * LANES);
    }
    for (int64_t row = 0; row < slice->rows; row++, out += out_stride)
        for (int i = 0; i < 16 / LANES; i++) {
            float *gate = gates[group % 2][row] + i * LANES, *place = out + i * LANES;
            ivec sums = first[i] + sums_of_slice(bits, slice->sums, group % SLICE_GROUPS(bits), row,
                                                 i * LANES);
            vec value = worth(sums, scales[i], slice->row_scales[row], bias[i]);
            if (finish == SWIGLU && group < 2) place = gate;
            else if (finish == SWIGLU) value = silu(load(gate)) * value;
            else if (finish == ADD) value = load(place) + value;
            store(place, value);
        }
}

/* Packs `count` rows of a block, which begins with row `first`, behind the room of the block. */
static void pack_inputs(const Linear *linear, int16_t *inputs, int64_t first, int64_t count) {
    char *packed = (char *)(inputs + BLOCK_ROWS * linear->depth);
    pack_rows((int)linear->bits, inputs, count, linear->depth,
              packed + packed_rows_bytes(first, linear->depth));
}

/* The same sums by blocks of rows, which are packed; panels are packed here, in `room`. A slice
 * of one group is finished when the next one has been multiplied: sums that a tile has just stored
 * are slow to load. */
INLINE void linear_in_blocks(int bits, Finish finish, const Linear *linear, const int16_t *inputs,
                             const float *row_scales, int64_t rows, float *out, int64_t out_stride,
                             char *room) {
    const int64_t depth = linear->depth, words = depth * bits / 32, steps = slice_steps(bits, depth);
    const int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const char *packed = (const char *)(inputs + BLOCK_ROWS * depth);
    char *panel = room;
    float gates[2][BLOCK_ROWS][16];
    int32_t sums[2][SLICE_SUMS] __attribute__((aligned(64)));
    Slice last = {.rows = 0};
    begin_blocks();
    for (int64_t column = 0; column < linear->width; column += PANEL) {
        NextPanel next =
            next_panel(linear, column, blocks * steps * (PANEL / 16 / SLICE_GROUPS(bits)));
        pack_panel(bits, linear->panels + column * words, depth, PANEL, panel);
        for (int64_t first = 0; first < rows; first += BLOCK_ROWS) {
            int64_t count = least(rows - first, BLOCK_ROWS);
            const char *block = packed + packed_rows_bytes(first, depth), *slice = panel;
            begin_block(count);
            UNROLLED
            for (int group = 0; group < PANEL / 16; group += SLICE_GROUPS(bits)) {
                Slice now = {sums[group % 2], column, count, row_scales + first,
                             out + first * out_stride};
                begin_slice(bits, block, slice);
                for (int64_t step = 0; step < steps; step++) {
                    step_slice(bits, step, count, block, slice, depth, sums[group % 2]);
                    fetch_share(&next);
                }
                end_slice(sums[group % 2]);
                if (SLICE_GROUPS(bits) == 1)
                    finish_group(bits, finish, linear, &last, (group + 3) % 4, out_stride, gates);
                else
                    for (int own = 0; own < 4; own++)
                        finish_group(bits, finish, linear, &now, own, out_stride, gates);
                last = now;
                slice += slice_bytes(bits, depth);
            }
            end_block(count);
        }
    }
    if (SLICE_GROUPS(bits) == 1) finish_group(bits, finish, linear, &last, 3, out_stride, gates);
    end_blocks();
}

static int64_t linear_room_bytes(int64_t depth) { return packed_panel_bytes(depth, PANEL); }
static int64_t linear_packed_bytes(int64_t rows, int64_t depth) {
    return packed_rows_bytes(rows, depth);
}
#else /* nothing is rearranged */
#define linear_in_blocks(bits, finish, l, in, scales, n, out, stride, room) (void)(room)
#define pack_inputs(linear, inputs, first, count) (void)0
static int64_t linear_room_bytes(int64_t depth) { return 0 * depth; }
static int64_t linear_packed_bytes(int64_t rows, int64_t depth) { return 0 * rows * depth; }
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
