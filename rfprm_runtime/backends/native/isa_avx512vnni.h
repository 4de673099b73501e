/* x86-64 with AVX-512 and its dot products (VNNI): Intel since Ice Lake, AMD since Zen 4. */

#pragma once

#include <immintrin.h>

#define LANES 16
#define PARTS 4
#define HAS_VMAX
#define HAS_ROUNDED
#include "vectors.h"

INLINE vec splat(float x) { return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

INLINE vec fma_vec(vec a, vec b, vec c) {
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

INLINE vec vmax(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }

INLINE ivec rounded(vec a) { return (ivec)_mm512_cvtps_epi32((__m512)a); }

INLINE float sum_lanes(vec v) { return _mm512_reduce_add_ps((__m512)v); }

INLINE float max_lanes(vec v) { return _mm512_reduce_max_ps((__m512)v); }

/* Across the lanes of up to 16 vectors at once: the halves of two meet in one, then the quarters of
 * four, and so on, in the order in which _mm512_reduce_add_ps adds those of one. */
#define ACROSS_ROWS(name, op)                                                                   \
    INLINE void name(int rows, const vec *row, float *out) {                                    \
        __m512 a[16];                                                                           \
        for (int r = 0; r < 16; r++) a[r] = r < rows ? (__m512)row[r] : _mm512_setzero_ps();    \
        for (int r = 0; 2 * r < rows; r++)                                                      \
            a[r] = op(_mm512_shuffle_f32x4(a[2 * r], a[2 * r + 1], 0x44),                       \
                      _mm512_shuffle_f32x4(a[2 * r], a[2 * r + 1], 0xee));                      \
        for (int r = 0; 4 * r < rows; r++)                                                      \
            a[r] = op(_mm512_shuffle_f32x4(a[2 * r], a[2 * r + 1], 0x88),                       \
                      _mm512_shuffle_f32x4(a[2 * r], a[2 * r + 1], 0xdd));                      \
        for (int r = 0; 8 * r < rows; r++)                                                      \
            a[r] = op(_mm512_shuffle_ps(a[2 * r], a[2 * r + 1], 0x44),                          \
                      _mm512_shuffle_ps(a[2 * r], a[2 * r + 1], 0xee));                         \
        a[0] = op(_mm512_shuffle_ps(a[0], a[1], 0x88), _mm512_shuffle_ps(a[0], a[1], 0xdd));    \
        __m512i place = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); \
        store(out, (vec)_mm512_permutexvar_ps(place, a[0]));                                    \
    }
ACROSS_ROWS(sums_of_rows, _mm512_add_ps)
ACROSS_ROWS(max_of_rows, _mm512_max_ps)

INLINE void store_int16(int16_t *out, ivec whole) {
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtsepi32_epi16((__m512i)whole));
}

INLINE ivec dot_pairs(ivec sum, int32_t pair, ivec b) {
    __m512i both = _mm512_set1_epi32(pair);
#if defined(__clang__) /* would take the intrinsic apart, into a product and a sum: twice the time */
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(both), "v"(b));
    return sum;
#else
    return (ivec)_mm512_dpwssd_epi32((__m512i)sum, both, (__m512i)b);
#endif
}

/* The instruction takes unsigned bytes on one side: inputs are shifted from -127..127 to 1..255. */
#define FOUR_BYTES 4
#define INPUT_SHIFT 128

INLINE ivec dot_fours(ivec sum, const char *at, ivec b) {
    return (ivec)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(load_int32(at)), (__m512i)b);
}

static void narrow(int16_t *row, int64_t size) {
    char *to = (char *)row;
    for (int64_t i = 0; i < size; i += 16) {
        __m256i whole = _mm256_loadu_si256((const __m256i *)(row + i));
        whole = _mm256_add_epi16(whole, _mm256_set1_epi16(INPUT_SHIFT));
        _mm_storeu_si128((__m128i *)(to + i), _mm256_cvtepi16_epi8(whole));
    }
}
