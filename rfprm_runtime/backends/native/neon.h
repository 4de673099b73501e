/* What all instruction sets of 64-bit ARM share: 32 vectors of four lanes, and products of 16-bit
 * numbers that are added in 32 bits. */

#pragma once

#include <arm_neon.h>

#define LANES 4
#define PARTS 4
#define TILE 5 /* beside 20 sums there is room for the weights, which dot_pairs takes apart */
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) {
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

INLINE float sum_lanes(vec v) { return vaddvq_f32((float32x4_t)v); }

INLINE float max_lanes(vec v) { return vmaxvq_f32((float32x4_t)v); } /* NaN if one is */

#include "rows_of_lanes.h"

INLINE void store_int16(int16_t *out, ivec whole) {
    vst1_s16(out, vqmovn_s32((int32x4_t)whole));
}

/* The even and the odd numbers of b are taken apart once for all rows of a tile. */
INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    int16x4_t low = vmovn_s32((int32x4_t)b), high = vshrn_n_s32((int32x4_t)b, 16);
    int16x4_t both = vreinterpret_s16_s32(vdup_n_s32(pair));
    return (ivec)vmlal_lane_s16(vmlal_lane_s16((int32x4_t)sum, low, both, 0), high, both, 1);
}
