/* Plain C that checks the other sets, bit by bit. It has the arithmetic of the NEON sets
 * (compare_aarch64.sh); with -DBYTES its 8-bit inputs are shifted, as those of AVX-512 are, and with
 * -DEMULATED_TILES many rows go through tile_blocks.h as well (tests/runtime/test_emulated_kernels.py). */

#pragma once

#define LANES 4
#define PARTS 2
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) {
    for (int lane = 0; lane < LANES; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return c;
}

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    return sum + ((b << 16) >> 16) * (int32_t)(int16_t)pair + (b >> 16) * (pair >> 16);
}

#define sum_lanes sum_in_order
#include "portable_lanes.h"
#undef sum_lanes

INLINE float sum_lanes(vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }

#include "rows_of_lanes.h"

#ifndef BYTES
#include "portable_fours.h"
#else
#define FOUR_BYTES 4
#define INPUT_SHIFT 128

INLINE ivec dot_fours(ivec sum, const char *at, ivec b) {
    for (int i = 0; i < 4; i++) sum += (b << (24 - 8 * i) >> 24) * (int32_t)(uint8_t)at[i];
    return sum;
}

static void narrow(int16_t *row, int64_t size) {
    for (int64_t i = 0; i < size; i++) ((uint8_t *)row)[i] = (uint8_t)(row[i] + INPUT_SHIFT);
}
#endif

#ifdef EMULATED_TILES
#include "emulated_tiles.h"
#include "tile_blocks.h"
#endif
