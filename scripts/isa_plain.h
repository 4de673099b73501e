/* The arithmetic of the NEON sets in plain C, to compare their bits with (compare_aarch64.sh). */

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

#include "portable_fours.h"
#define sum_lanes sum_in_order
#include "portable_lanes.h"
#undef sum_lanes

INLINE float sum_lanes(vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
