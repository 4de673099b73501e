/* AVX-VNNI with its two instructions put together from AVX2's, to run where they are missing. */

#pragma once

#include <immintrin.h>

static inline __m256i pairs(__m256i sum, __m256i a, __m256i b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

static inline __m256i fours(__m256i sum, __m256i a, __m256i b) {
    union { __m256i all; uint8_t one[32]; } inputs = {a};
    union { __m256i all; int8_t one[32]; } weights = {b};
    union { __m256i all; int32_t one[8]; } total = {sum};
    for (int i = 0; i < 32; i++) total.one[i / 4] += inputs.one[i] * weights.one[i];
    return total.all;
}

#undef __clang__ /* intrinsics only */
#define _mm256_dpwssd_avx_epi32 pairs
#define _mm256_dpbusd_avx_epi32 fours
#include "isa_avxvnni.h"
