/* What a caller asks about a panel of weights before it runs. Whole numbers, so that every compiler
 * and every processor gives the same answer. */

#pragma once

#include <stdint.h>

#include "linear.h"

/* The largest sum of squares of a column: [steps][64][2]. */
static int64_t longest_in_panel(const int16_t *panel, int64_t steps) {
    uint64_t squares[PANEL] = {0}, longest = 0;
    for (int64_t step = 0; step < steps; step++, panel += 2 * PANEL)
        for (int column = 0; column < PANEL; column++) {
            int32_t a = panel[2 * column], b = panel[2 * column + 1];
            squares[column] += (uint32_t)(a * a) + (uint32_t)(b * b);
        }
    for (int column = 0; column < PANEL; column++)
        if (squares[column] > longest) longest = squares[column];
    return (int64_t)longest;
}

/* How many of `sums` are not those of their column: [steps][64][4]. */
static int64_t wrong_sums_of_panel(const int8_t *panel, int64_t steps, const int32_t *sums) {
    int32_t found[PANEL] = {0};
    int64_t wrong = 0;
    for (int64_t step = 0; step < steps; step++, panel += 4 * PANEL)
        for (int column = 0; column < PANEL; column++) {
            const int8_t *four = panel + 4 * column;
            found[column] += four[0] + four[1] + four[2] + four[3];
        }
    for (int column = 0; column < PANEL; column++) wrong += found[column] != sums[column];
    return wrong;
}
