/* AMX's tiles in plain C, to run tile_blocks.h on any machine. What an instruction does not write is
 * kept, tiles that are not set up fault, and rows beyond those of a tile do not exist. */

#pragma once

#include <stdlib.h>

static _Thread_local struct {
    int64_t rows; /* of sums and inputs; 0: no tiles */
    uint8_t bytes[8][16][64];
} tiles;

static int64_t rows_of_tile(int tile) {
    if (!tiles.rows) abort();
    return tile < 6 ? tiles.rows : 16;
}

static void tiles_for(int64_t rows) {
    if (rows < 1 || rows > 16) abort();
    memset(&tiles, 0, sizeof tiles);
    tiles.rows = rows;
}

static void no_tiles(void) {
    rows_of_tile(0);
    tiles.rows = 0;
}

static void tile_zero(int tile) {
    rows_of_tile(tile);
    memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile]);
}

static void tile_load(int tile, const void *from, int64_t stride) {
    for (int64_t row = 0; row < rows_of_tile(tile); row++)
        memcpy(tiles.bytes[tile][row], (const char *)from + row * stride, 64);
}

static void tile_store(int tile, void *to, int64_t stride) {
    for (int64_t row = 0; row < rows_of_tile(tile); row++)
        memcpy((char *)to + row * stride, tiles.bytes[tile][row], 64);
}

#define TILE_PRODUCTS(name, input_type, weight_type)                                       \
    static void name(int sums, int inputs, int weights) {                                  \
        for (int64_t row = 0; row < rows_of_tile(sums); row++)                             \
            for (int column = 0; column < 16; column++) {                                  \
                uint32_t sum;                                                              \
                uint8_t *place = tiles.bytes[sums][row] + 4 * column;                      \
                memcpy(&sum, place, 4);                                                    \
                for (int i = 0; i < 64; i++)                                               \
                    sum += (uint32_t)((input_type)tiles.bytes[inputs][row][i] *            \
                                      (weight_type)tiles.bytes[weights][i / 4][4 * column + i % 4]); \
                memcpy(place, &sum, 4);                                                    \
            }                                                                              \
    }
TILE_PRODUCTS(tile_ss, int8_t, int8_t)
TILE_PRODUCTS(tile_su, int8_t, uint8_t)
TILE_PRODUCTS(tile_us, uint8_t, int8_t)
TILE_PRODUCTS(tile_uu, uint8_t, uint8_t)

INLINE uvec even_bytes(uvec a, uvec b) {
    return (a & 0xff) | (a >> 8 & 0xff00) | (b << 16 & 0xff0000) | (b << 8 & 0xff000000);
}
INLINE uvec odd_bytes(uvec a, uvec b) { return even_bytes(a >> 8, b >> 8); }

INLINE void split_64(const int16_t *from, uint8_t *low, uint8_t *high) {
    for (int i = 0; i < 64; i++) {
        low[i] = (uint8_t)from[i];
        high[i] = (uint8_t)((uint16_t)from[i] >> 8);
    }
}
