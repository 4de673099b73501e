/* The instruction set to compile for, chosen with -DISA. variants.py has the table.
 *
 * A new one needs only an isa_NAME.h, which defines
 *   LANES, PARTS         lanes of a vector; vectors of columns in a tile (even, PARTS * LANES <= 64)
 *   TILE                 rows of a tile, if not the 6 of vectors.h
 *   splat, fma_vec       one number in every lane; a * b + c, rounded once where the machine can.
 *                        Explicit, because the compiler may not fuse on its own: a row must get
 *                        the same bits in a tile of any height
 *   sum_lanes, max_lanes across the lanes of a vector
 *   store_int16          lanes as 16-bit integers; what is too large becomes the largest
 *   dot_pairs            adds a.lo * b.lo + a.hi * b.hi to each 32-bit lane; `pair` holds both a
 *   dot_fours            adds the products of the four 8-bit inputs at `at` and the weights in b
 *   narrow               a row of 16-bit integers from -127 to 127, in place, to the inputs that
 *                        dot_fours takes: FOUR_BYTES bytes for four, each shifted by INPUT_SHIFT
 * or includes portable_lanes.h and portable_fours.h where the machine has nothing better.
 *
 * A set that multiplies many rows faster from rearranged copies of inputs and weights also defines
 *   MANY_ROWS, BLOCK_ROWS from how many rows on that pays; rows of a block
 *   pack_rows, pack_panel make the copies, of packed_rows_bytes and packed_panel_bytes. A panel has
 *                         64 columns, with 16 bits also another multiple of 16
 *   multiply_block        the sums of up to BLOCK_ROWS packed rows and a packed panel
 *   begin_blocks, end_blocks before and after blocks */

#pragma once

#ifndef ISA
#define ISA "isa_generic.h"
#endif
#include ISA

#ifdef MANY_ROWS
#define HAS_BLOCKS 1
#else
#define HAS_BLOCKS 0
#define MANY_ROWS INT64_MAX
#define BLOCK_ROWS 0
#endif
