/* Operations across the lanes of several vectors, one number each: row by row, where an instruction
 * set has nothing better. */

#pragma once

INLINE void sums_of_rows(int rows, const vec *row, float *out) {
    for (int r = 0; r < rows; r++) out[r] = sum_lanes(row[r]);
}

INLINE void max_of_rows(int rows, const vec *row, float *out) {
    for (int r = 0; r < rows; r++) out[r] = max_lanes(row[r]);
}
