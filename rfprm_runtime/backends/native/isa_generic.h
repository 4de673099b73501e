/* Any machine. Vectors are four lanes wide; the compiler finds the instructions. */

#pragma once

#if defined(__SSE2__) /* every x86-64 has it */
#include <emmintrin.h>
#endif

#define LANES 4
#define PARTS 2
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) { return a * b + c; }

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
#if defined(__SSE2__)
    return sum + (ivec)_mm_madd_epi16(_mm_set1_epi32(pair), (__m128i)b);
#else
    ivec low = (b << 16) >> 16, high = b >> 16;
    return sum + low * (int32_t)(int16_t)pair + high * (pair >> 16);
#endif
}

#include "portable_fours.h"
#include "portable_lanes.h"
#include "rows_of_lanes.h"
