/* What the instruction sets with vectors of 256 bits share. */

#pragma once

#include <immintrin.h>

#define LANES 8
#define PARTS 2
#define HAS_VMAX
#define HAS_ROUNDED
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x, x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) {
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINE vec vmax(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }

INLINE ivec rounded(vec a) { return (ivec)_mm256_cvtps_epi32((__m256)a); }

INLINE float sum_lanes(vec v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

INLINE float max_lanes(vec v) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#include "rows_of_lanes.h"

INLINE void store_int16(int16_t *out, ivec whole) {
    __m256i most = _mm256_set1_epi32(-32767), clipped = _mm256_max_epi32((__m256i)whole, most);
    _mm_storeu_si128((__m128i *)out, _mm_packs_epi32(_mm256_castsi256_si128(clipped),
                                                     _mm256_extracti128_si256(clipped, 1)));
}
