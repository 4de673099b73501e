/* The kind of numbers to compile for, chosen with -DNUMBERS: what linears multiply, and what pages
 * hold. variants.py has the table. Rows between the linears are float32 in any kind.
 *
 * A kind is a numbers_NAME.h, which defines
 *   number               of inputs and queries
 *   take_some            SIDE_BY_SIDE or fewer of the rows of inputs, as a linear takes them;
 *                        input_bytes is what all of them need
 *   take_queries         queries as attention takes them; `units` are the sizes of a unit of each
 *   place_key, place_value     write one to a slot of a page
 *   store_products, add_products, gate_products     linears: the result is stored, added to what is
 *                        there, or gated (SwiGLU)
 *   Page, page_of, head_bytes, attend_tile     attention to a page
 *   pack_queries, attend_in_blocks     the same for MANY_QUERIES or more; queries are packed once
 *   work_bytes           memory that linears of so many rows of such a depth need, or attention of
 *                        so many queries of a key head
 *   embed_row            a row of the embedding
 *   examine              what rfprm_examine answers */

#pragma once

#include "structures.h"

#ifndef NUMBERS
#define NUMBERS "numbers_int16.h"
#endif

/* Inputs of a linear. */
typedef struct {
    void *numbers; /* [rows][depth], or blocks of packed rows */
    float *units;  /* [rows], the size of a unit */
    void *work;    /* work_bytes */
} Inputs;

#include NUMBERS
