/* x86-64 with the dot products of AVX-VNNI but without AVX-512: Intel's client processors since
 * Alder Lake. */

#pragma once

#include "ymm.h"

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    __m256i both = _mm256_set1_epi32(pair);
#if defined(__clang__) /* would take the intrinsic apart, into a product and a sum: twice the time */
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(both), "x"(b));
    return sum;
#else
    return (ivec)_mm256_dpwssd_avx_epi32((__m256i)sum, both, (__m256i)b);
#endif
}

/* The instruction takes unsigned bytes on one side: inputs are shifted from -127..127 to 1..255. */
#define FOUR_BYTES 4
#define INPUT_SHIFT 128

INLINE ivec dot_fours(ivec sum, const char *at, ivec b) {
    __m256i four = _mm256_set1_epi32(load_int32(at));
    return (ivec)_mm256_dpbusd_avx_epi32((__m256i)sum, four, (__m256i)b);
}

static void narrow(int16_t *row, int64_t size) {
    char *to = (char *)row;
    for (int64_t i = 0; i < size; i += 8) {
        __m128i whole = _mm_loadu_si128((const __m128i *)(row + i));
        whole = _mm_add_epi16(whole, _mm_set1_epi16(INPUT_SHIFT));
        _mm_storel_epi64((__m128i *)(to + i), _mm_packus_epi16(whole, whole));
    }
}
