/* Operations across the lanes of a vector, for instruction sets that have nothing better. */

#pragma once

INLINE float sum_lanes(vec v) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += v[lane];
    return total;
}

INLINE float max_lanes(vec v) {
    float best = v[0];
    for (int lane = 1; lane < LANES; lane++) best = v[lane] > best ? v[lane] : best;
    return best;
}

INLINE void store_int16(int16_t *out, ivec whole) {
    for (int lane = 0; lane < LANES; lane++) {
        int32_t x = whole[lane];
        out[lane] = (int16_t)(x > 32767 ? 32767 : x < -32767 ? -32767 : x);
    }
}
