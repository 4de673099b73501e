/* Many rows at once on AMX: tiles of 16 rows of 64 bytes. A 16-bit number is 256 * high + low, with a
 * signed high and an unsigned low byte, and a sum of products is
 *   2^16 * (high * high) + 2^8 * (high * low + low * high) + low * low.
 * Sums wrap around, like those of the other instructions, and so get the same bits. In a step each of
 * four operand tiles is used twice and each of four tiles of sums once, so that none has to wait.
 *
 * Whoever includes this defines the operations on tiles, of which 0 to 3 hold sums, 4 and 5 inputs, 6
 * and 7 weights:
 *   tiles_for(rows), no_tiles()   before and after the others; rows of sums and inputs
 *   tile_zero, tile_load, tile_store
 *   tile_ss, tile_su, tile_us, tile_uu   sums += inputs * weights; which are signed or unsigned
 *   even_bytes, odd_bytes         of two vectors of words, two bytes of each in turn
 *   split_64                      64 numbers of 16 bits into their low and their high bytes
 */

#pragma once

#define BLOCK_ROWS 16
#define MANY_ROWS 8
#define TILE_BYTES 1024

static int64_t tile_steps(int64_t depth) { return (depth + 63) / 64; }

/* Blocks of rows: [depth / 64][bits / 8][16][64] bytes, low ones first. Beyond the depth they are
 * whatever was there, and meet weights of 0. */
static int64_t packed_rows_bytes(int64_t rows, int64_t depth) {
    return (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * tile_steps(depth) * 2 * TILE_BYTES;
}
/* A panel: [width / 16][depth / 64][bits / 8][16][16 columns][4] bytes, 0 beyond the depth. */
static int64_t packed_panel_bytes(int64_t depth, int64_t width) {
    return width / 16 * tile_steps(depth) * 2 * TILE_BYTES;
}

static void pack_row(int bits, const int16_t *row, int64_t depth, uint8_t *to) {
    for (int64_t first = 0; first < depth; first += 64, to += bits / 8 * TILE_BYTES) {
        int64_t count = depth - first < 64 ? depth - first : 64;
        if (bits == 8) {
            memcpy(to, (const char *)row + first, (size_t)count);
            continue;
        }
        if (count == 64) {
            split_64(row + first, to, to + TILE_BYTES);
            continue;
        }
        const uint16_t *from = (const uint16_t *)row + first;
        for (int64_t i = 0; i < count; i++) to[i] = (uint8_t)from[i];
        for (int64_t i = 0; i < count; i++) to[TILE_BYTES + i] = (uint8_t)(from[i] >> 8);
    }
}

static void pack_rows(int bits, const int16_t *rows, int64_t count, int64_t depth, char *packed) {
    for (int64_t row = 0; row < count; row++) {
        char *block = packed + packed_rows_bytes(row / BLOCK_ROWS * BLOCK_ROWS, depth);
        pack_row(bits, rows + row * depth, depth, (uint8_t *)block + row % BLOCK_ROWS * 64);
    }
}

/* Four weights of all columns, in place `four` of a tile. */
INLINE void pack_four(int bits, const int32_t *words, int64_t width, char *to, int64_t slice) {
    for (int64_t column = 0; column < width; column += LANES) {
        char *place = to + column / 16 * slice + column % 16 * 4;
        uvec first = *(const uvec *)(words + column);
        if (bits == 8) {
            *(uvec *)place = first;
            continue;
        }
        uvec second = *(const uvec *)(words + width + column);
        *(uvec *)place = even_bytes(first, second);
        *(uvec *)(place + TILE_BYTES) = odd_bytes(first, second);
    }
}

static void pack_panel(int bits, const int32_t *panel, int64_t depth, int64_t width,
                       char *packed) {
    int64_t fours = tile_steps(depth) * 16, slice = tile_steps(depth) * bits / 8 * TILE_BYTES;
    for (int64_t four = 0; four < fours; four++) {
        char *to = packed + four / 16 * bits / 8 * TILE_BYTES + four % 16 * 64;
        if (four * 4 < depth) {
            pack_four(bits, panel, width, to, slice);
            panel += bits / 8 * width;
            continue;
        }
        for (int plane = 0; plane < bits / 8; plane++)
            for (int64_t columns = 0; columns < width / 16; columns++)
                memset(to + columns * slice + plane * TILE_BYTES, 0, 64);
    }
}

/* A panel is multiplied in slices. Their sums are four tiles: with 16 bits parts of those of 16
 * columns, with 8 bits those of 64. */
#define SLICE_GROUPS(bits) ((bits) == 16 ? 1 : 4) /* of 16 columns */
#define SLICE_SUMS (4 * 256)
INLINE int64_t slice_bytes(int bits, int64_t depth) {
    return tile_steps(depth) * TILE_BYTES * (bits == 16 ? 2 : 4);
}
INLINE int64_t slice_steps(int bits, int64_t depth) {
    (void)bits;
    return tile_steps(depth);
}

INLINE void begin_slice(int bits, const char *rows, const char *slice) {
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    if (bits == 8) return;
    tile_load(4, rows, 64);
    tile_load(6, slice, 64);
    tile_load(7, slice + TILE_BYTES, 64);
    tile_load(5, rows + TILE_BYTES, 64);
}

/* The products of one step. With 16 bits the operands of the next are loaded as soon as those of
 * this one are no longer needed: what waits for a tile's last use then waits least. */
INLINE void step_slice(int bits, int64_t step, int64_t count, const char *rows, const char *slice,
                       int64_t depth, int32_t *sums) {
    const int64_t steps = tile_steps(depth);
    (void)count, (void)sums;
    if (bits == 8) {
        tile_load(4, rows + step * TILE_BYTES, 64);
        slice += step * TILE_BYTES;
        tile_load(6, slice, 64);
        tile_us(0, 4, 6);
        tile_load(7, slice + steps * TILE_BYTES, 64);
        tile_us(1, 4, 7);
        tile_load(6, slice + 2 * steps * TILE_BYTES, 64);
        tile_us(2, 4, 6);
        tile_load(7, slice + 3 * steps * TILE_BYTES, 64);
        tile_us(3, 4, 7);
        return;
    }
    rows += (step + 1) * 2 * TILE_BYTES;
    slice += (step + 1) * 2 * TILE_BYTES;
    tile_uu(0, 4, 6);
    tile_us(1, 4, 7);
    if (step + 1 < steps) tile_load(4, rows, 64);
    tile_su(2, 5, 6);
    if (step + 1 < steps) tile_load(6, slice, 64);
    tile_ss(3, 5, 7);
    if (step + 1 == steps) return;
    tile_load(7, slice + TILE_BYTES, 64);
    tile_load(5, rows + TILE_BYTES, 64);
}

INLINE void end_slice(int32_t *sums) {
    tile_store(0, sums, 64);
    tile_store(1, sums + 256, 64);
    tile_store(2, sums + 512, 64);
    tile_store(3, sums + 768, 64);
}

/* LANES sums of a row, from those that a slice left; `column` counts within its group. */
INLINE ivec sums_of_slice(int bits, const int32_t *sums, int64_t group, int64_t row,
                          int64_t column) {
    sums += group * 256 + row * 16 + column;
    if (bits == 8) return *(const ivec *)sums;
    uvec middle = *(const uvec *)(sums + 256) + *(const uvec *)(sums + 512);
    middle += *(const uvec *)(sums + 768) << 8;
    return (ivec)(*(const uvec *)sums + (middle << 8));
}

/* Packed rows times 16 columns of a panel of 16-bit numbers that is not deep, attention's. Three
 * tiles of sums: nothing is gained by keeping the middle ones apart where few steps follow each
 * other. Rows of one step stay in their tiles from the first group on. */
#define GROUP_SUMS (3 * 256)
INLINE int64_t group_bytes(int64_t depth) { return tile_steps(depth) * 2 * TILE_BYTES; }

INLINE void multiply_group(int64_t group, int64_t count, const char *rows, const char *columns,
                           int64_t depth, int32_t *sums) {
    const int64_t steps = tile_steps(depth);
    (void)count;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    for (int64_t step = 0; step < steps; step++, columns += 2 * TILE_BYTES) {
        if (group == 0 || steps > 1) {
            tile_load(4, rows + step * 2 * TILE_BYTES, 64);
            tile_load(5, rows + step * 2 * TILE_BYTES + TILE_BYTES, 64);
        }
        tile_load(6, columns, 64);
        tile_su(1, 5, 6);
        tile_load(7, columns + TILE_BYTES, 64);
        tile_ss(2, 5, 7);
        tile_uu(0, 4, 6);
        tile_us(1, 4, 7);
    }
    tile_store(0, sums, 64);
    tile_store(1, sums + 256, 64);
    tile_store(2, sums + 512, 64);
}

INLINE ivec sums_of_group(const int32_t *sums, int64_t row, int64_t column) {
    sums += row * 16 + column;
    uvec middle = *(const uvec *)(sums + 256) + (*(const uvec *)(sums + 512) << 8);
    return (ivec)(*(const uvec *)sums + (middle << 8));
}

/* Tiles that have not been multiplied for about 1,000 cycles take 800 to wake up (measured on
 * Emerald Rapids). */
INLINE void stay_awake(void) { tile_ss(3, 4, 6); }

/* Tiles for fewer rows take less time. */
INLINE void begin_block(int64_t rows) {
    if (rows < BLOCK_ROWS) tiles_for(rows);
}
INLINE void end_block(int64_t rows) {
    if (rows < BLOCK_ROWS) tiles_for(BLOCK_ROWS);
}

static void begin_blocks(void) { tiles_for(BLOCK_ROWS); }
static void end_blocks(void) { no_tiles(); }
