/* Dot products of four 8-bit numbers, for 64-bit ARM that has an instruction for them. */

#pragma once

#define FOUR_BYTES 4
#define INPUT_SHIFT 0

INLINE ivec dot_fours(ivec sum, const char *at, ivec b) {
    int8x8_t four = vreinterpret_s8_s32(vdup_n_s32(load_int32(at)));
    return (ivec)vdotq_lane_s32((int32x4_t)sum, (int8x16_t)b, four, 0);
}

static void narrow(int16_t *row, int64_t size) {
    int8_t *to = (int8_t *)row;
    for (int64_t i = 0; i < size; i += 8) vst1_s8(to + i, vmovn_s16(vld1q_s16(row + i)));
}
