/* x86-64 with AVX2 and FMA: Intel since Haswell, AMD since Excavator. */

#pragma once

#include <immintrin.h>

#define LANES 8
#define PARTS 2
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x, x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) {
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    return sum + (ivec)_mm256_madd_epi16(_mm256_set1_epi32(pair), (__m256i)b);
}

#include "portable_fours.h"
#include "portable_lanes.h"
