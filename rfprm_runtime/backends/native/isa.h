/* The instruction set to compile for, chosen with -DISA. variants.py has the table.
 *
 * A new one needs only an isa_NAME.h, which defines
 *   LANES, PARTS         lanes of a vector; vectors of columns in a tile (even, PARTS * LANES <= 64)
 *   TILE                 rows of a tile, if not the 6 of vectors.h
 *   splat, fma_vec       one number in every lane; a * b + c, rounded once where the machine can.
 *                        Explicit, because the compiler may not fuse on its own: a row must get
 *                        the same bits in a tile of any height
 *   sum_lanes, max_lanes across the lanes of a vector
 *   sums_of_rows, max_of_rows    the same of several vectors, in the same order
 *   vmax, rounded        where the machine has them, with HAS_VMAX and HAS_ROUNDED: b if either is
 *                        NaN; the nearest integer
 *   store_int16          lanes as 16-bit integers; what is too large becomes the largest
 *   dot_pairs            adds a.lo * b.lo + a.hi * b.hi to each 32-bit lane; `pair` holds both a
 *   dot_fours            adds the products of the four 8-bit inputs at `at` and the weights in b
 *   narrow               a row of 16-bit integers from -127 to 127, in place, to the inputs that
 *                        dot_fours takes: FOUR_BYTES bytes for four, each shifted by INPUT_SHIFT
 * or includes portable_lanes.h, rows_of_lanes.h and portable_fours.h where the machine has nothing
 * better.
 *
 * A set that multiplies many rows faster from rearranged copies of inputs and weights also defines
 *   MANY_ROWS, BLOCK_ROWS from how many rows on that pays; rows of a block
 *   pack_rows, pack_panel make the copies, of packed_rows_bytes and packed_panel_bytes. A panel has
 *                         64 columns, with 16 bits also another multiple of 16
 *   multiply_group        the sums of up to BLOCK_ROWS packed rows and 16 columns of a packed panel
 *                         of 16 bits, group_bytes; GROUP_SUMS numbers, which sums_of_group reads
 *   begin_slice, step_slice, end_slice    the same for a part of a panel, slice_bytes of it, in
 *                         slice_steps, between which other work may be done: SLICE_SUMS numbers of
 *                         SLICE_GROUPS times 16 columns; sums_of_slice reads them
 *   begin_blocks, end_blocks, begin_block, end_block    before and after all blocks, and one
 *   stay_awake           now and then, where other work lies between products */

#pragma once

#ifndef ISA
#define ISA "isa_generic.h"
#endif
#include ISA

#ifdef MANY_ROWS
#define HAS_BLOCKS 1
#define ROW_IN_BLOCK(row) ((row) % BLOCK_ROWS)
#else
#define HAS_BLOCKS 0
#define ROW_IN_BLOCK(row) (row)
#define MANY_ROWS INT64_MAX
#define BLOCK_ROWS 0
#endif
