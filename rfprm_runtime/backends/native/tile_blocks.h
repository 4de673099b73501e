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

INLINE void zero_sums(void) {
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
}

INLINE void store_sums(int32_t *to, int64_t step, int64_t row_bytes) {
    tile_store(0, to, row_bytes);
    tile_store(1, to + step, row_bytes);
    tile_store(2, to + 2 * step, row_bytes);
    tile_store(3, to + 3 * step, row_bytes);
}

/* 16 columns of sums, from the tiles' own. */
static void put_together(int64_t count, const int32_t *low, int64_t width, int32_t *sums) {
    const int32_t *low_high = low + 256, *high_low = low + 512, *high = low + 768;
    for (int64_t row = 0; row < count; row++)
        for (int64_t column = 0; column < 16; column += LANES) {
            int64_t at = row * 16 + column;
            uvec middle = *(const uvec *)(low_high + at) + *(const uvec *)(high_low + at);
            middle += *(const uvec *)(high + at) << 8;
            *(uvec *)(sums + row * width + column) = *(const uvec *)(low + at) + (middle << 8);
        }
}

static void multiply_16_bits(int64_t count, const char *rows, const char *panel, int64_t depth,
                             int64_t width, int32_t *sums) {
    for (int64_t column = 0; column < width; column += 16, sums += 16) {
        const char *inputs = rows;
        int32_t parts[4 * 256] __attribute__((aligned(64)));
        zero_sums();
        for (int64_t step = tile_steps(depth); step > 0; step--) {
            tile_load(4, inputs, 64);
            tile_load(6, panel, 64);
            tile_uu(0, 4, 6);
            tile_load(7, panel + TILE_BYTES, 64);
            tile_us(1, 4, 7);
            tile_load(5, inputs + TILE_BYTES, 64);
            tile_su(2, 5, 6);
            tile_ss(3, 5, 7);
            inputs += 2 * TILE_BYTES;
            panel += 2 * TILE_BYTES;
        }
        store_sums(parts, 256, 64);
        put_together(count, parts, width, sums);
    }
}

/* 64 columns. */
static void multiply_8_bits(const char *rows, const char *panel, int64_t depth, int32_t *sums) {
    const int64_t steps = tile_steps(depth), slice = steps * TILE_BYTES;
    zero_sums();
    for (int64_t step = 0; step < steps; step++, rows += TILE_BYTES, panel += TILE_BYTES) {
        tile_load(4, rows, 64);
        tile_load(6, panel, 64);
        tile_us(0, 4, 6);
        tile_load(7, panel + slice, 64);
        tile_us(1, 4, 7);
        tile_load(6, panel + 2 * slice, 64);
        tile_us(2, 4, 6);
        tile_load(7, panel + 3 * slice, 64);
        tile_us(3, 4, 7);
    }
    store_sums(sums, 16, 64 * 4);
}

/* Up to BLOCK_ROWS packed rows times a packed panel; sums are [rows][width]. Tiles for fewer rows
 * take less time. 8-bit inputs are shifted by INPUT_SHIFT, so they have no sign. */
static void multiply_block(int bits, int64_t count, const char *rows, const char *panel,
                           int64_t depth, int64_t width, int32_t *sums) {
    if (count < BLOCK_ROWS) tiles_for(count);
    if (bits == 16) multiply_16_bits(count, rows, panel, depth, width, sums);
    else multiply_8_bits(rows, panel, depth, sums);
    if (count < BLOCK_ROWS) tiles_for(BLOCK_ROWS);
}

static void begin_blocks(void) { tiles_for(BLOCK_ROWS); }
static void end_blocks(void) { no_tiles(); }
