/* Vectors of LANES 32-bit numbers in GCC's and Clang's portable spelling, and what all instruction
 * sets have in common. An isa_*.h includes this after it has set LANES and PARTS. */

#pragma once

#include <stdint.h>
#include <string.h>

#ifndef TILE
#define TILE 6 /* rows of a tile, 5 or 6: its sums, PARTS vectors a row, fit the registers */
#endif
#define WIDTH (PARTS * LANES) /* columns of a tile */
#define INLINE static inline __attribute__((always_inline))
/* Before a loop over the rows of a tile, whose sums stay in registers only if nothing is left of
 * the loop. */
#define UNROLLED _Pragma("GCC unroll 8")
#if defined(__clang__)
#define UNROLLED_BY_CLANG UNROLLED
#else
#define UNROLLED_BY_CLANG
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int16_t svec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static const int32_t LANE_NUMBERS[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE int32_t load_int32(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}
#ifndef HAS_VMAX
INLINE vec vmax(vec a, vec b) { /* b if either is NaN */
    ivec more = a > b;
    return (vec)((more & (ivec)a) | (~more & (ivec)b));
}
#endif
#ifndef HAS_ROUNDED
INLINE ivec rounded(vec a) { /* to the nearest integer, the even one of two; below 2^22 */
    return (ivec)(a + 12582912.0f) - 0x4b400000;
}
#endif
INLINE vec vabs(vec a) { return (vec)((ivec)a & 0x7fffffff); }

static int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
