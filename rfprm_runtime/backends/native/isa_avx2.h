/* x86-64 with AVX2 and FMA: Intel since Haswell, AMD since Excavator. */

#pragma once

#include "ymm.h"

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    return sum + (ivec)_mm256_madd_epi16(_mm256_set1_epi32(pair), (__m256i)b);
}

#include "portable_fours.h"
