/* x86-64 with AMX: Intel since Sapphire Rapids. A process may use its tiles only with the system's
 * permission (cpu.py asks for it). They are set up for one linear or one page of attention and
 * released after it, so that other code in the same thread that uses AMX finds them as it left
 * them: unused. */

#pragma once

#include "isa_avx512vnni.h"

/* GCC does not know what the instructions read, and could write it too late or not at all. */
#define WRITE_NOW(memory) __asm__ volatile("" ::"r"(memory) : "memory")

static void tiles_for(int64_t rows) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } shape __attribute__((aligned(64))) = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.row_bytes[tile] = 64;
        shape.rows[tile] = tile < 6 ? (uint8_t)rows : 16;
    }
    WRITE_NOW(&shape);
    _tile_loadconfig(&shape);
}

static void no_tiles(void) { _tile_release(); }

#define tile_zero(tile) _tile_zero(tile)
#define tile_load(tile, from, stride)        \
    do {                                     \
        WRITE_NOW(from);                     \
        _tile_loadd(tile, from, stride);     \
    } while (0)
#define tile_store(tile, to, stride) _tile_stored(tile, to, stride)
#define tile_ss(sums, inputs, weights) _tile_dpbssd(sums, inputs, weights)
#define tile_su(sums, inputs, weights) _tile_dpbsud(sums, inputs, weights)
#define tile_us(sums, inputs, weights) _tile_dpbusd(sums, inputs, weights)
#define tile_uu(sums, inputs, weights) _tile_dpbuud(sums, inputs, weights)

INLINE uvec every_other_byte(int first, uvec a, uvec b) {
    __m512i index = _mm512_set1_epi32(0x42400200 + 0x01010101 * first);
    __m512i lane = _mm512_mullo_epi32(_mm512_set1_epi32(0x04040404),
                                      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                                        13, 14, 15));
    return (uvec)_mm512_permutex2var_epi8((__m512i)a, _mm512_add_epi32(index, lane), (__m512i)b);
}
INLINE uvec even_bytes(uvec a, uvec b) { return every_other_byte(0, a, b); }
INLINE uvec odd_bytes(uvec a, uvec b) { return every_other_byte(1, a, b); }

INLINE void split_64(const int16_t *from, uint8_t *low, uint8_t *high) {
    __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 32);
    __m512i even = _mm512_set_epi64(0x7e7c7a7876747270, 0x6e6c6a6866646260, 0x5e5c5a5856545250,
                                    0x4e4c4a4846444240, 0x3e3c3a3836343230, 0x2e2c2a2826242220,
                                    0x1e1c1a1816141210, 0x0e0c0a0806040200);
    __m512i odd = _mm512_add_epi8(even, _mm512_set1_epi8(1));
    _mm512_storeu_si512(low, _mm512_permutex2var_epi8(a, even, b));
    _mm512_storeu_si512(high, _mm512_permutex2var_epi8(a, odd, b));
}

#include "tile_blocks.h"
