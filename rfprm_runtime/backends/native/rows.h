/* Operations on one row: to integers, normalise, rotate, multiply with another row. */

#pragma once

#include <math.h>

#include "isa.h"
#include "structures.h"

static void to_integers(const float *row, int64_t size, float per_unit, int16_t *out) {
    for (int64_t i = 0; i < size; i += LANES) store_int16(out + i, rounded(load(row + i) * per_unit));
}

/* Rows whose sums are made side by side: each has to wait for its last addition, and so do as many
 * others meanwhile. */
#define SIDE_BY_SIDE 4

/* The size of a unit of a row's integers, the smallest that keeps them within `most` and their norm
 * within `limit`. By Cauchy and Schwarz a sum of products is at most the product of both norms, and
 * it has to fit 32 bits. NaN if the row is not finite, which its squares show. */
INLINE float unit_of(vec largest, vec squares, double most, double limit) {
    double by_range = max_lanes(largest) / most;
    double by_norm = sqrt((double)sum_lanes(squares)) * 1.0001 / limit;
    float unit = (float)(by_range > by_norm ? by_range : by_norm);
    if (!isfinite(unit)) return NAN;
    return unit < 1e-30f ? 1e-30f : unit;
}

/* Turns rows into integers; `units` gets the size of a unit of each. */
INLINE void quantise_rows(int rows, const float *row, int64_t stride, int64_t size, double most,
                          double limit, int16_t *out, int64_t out_stride, float *units) {
    vec largest[SIDE_BY_SIDE], squares[SIDE_BY_SIDE];
    for (int r = 0; r < rows; r++) largest[r] = squares[r] = (vec){0};
    for (int64_t i = 0; i < size; i += LANES)
        for (int r = 0; r < rows; r++) {
            vec v = load(row + r * stride + i);
            largest[r] = vmax(largest[r], vabs(v));
            squares[r] = fma_vec(v, v, squares[r]);
        }
    for (int r = 0; r < rows; r++) units[r] = unit_of(largest[r], squares[r], most, limit);
    for (int r = 0; r < rows; r++, row += stride, out += out_stride) {
        if (units[r] == units[r]) to_integers(row, size, 1.0f / units[r], out);
        /* There are no integers, and it must not look as if there were: the unit makes NaN of
         * everything that depends on them, which the caller sees. */
        else memset(out, 0, (size_t)size * sizeof *out);
    }
}

/* The same for any number of rows. */
static void quantise(int64_t rows, const float *row, int64_t stride, int64_t size, double most,
                     double limit, int16_t *out, int64_t out_stride, float *units) {
    for (; rows >= SIDE_BY_SIDE; rows -= SIDE_BY_SIDE) {
        quantise_rows(SIDE_BY_SIDE, row, stride, size, most, limit, out, out_stride, units);
        row += SIDE_BY_SIDE * stride;
        out += SIDE_BY_SIDE * out_stride;
        units += SIDE_BY_SIDE;
    }
    switch (rows) {
    case 3: quantise_rows(3, row, stride, size, most, limit, out, out_stride, units); break;
    case 2: quantise_rows(2, row, stride, size, most, limit, out, out_stride, units); break;
    case 1: quantise_rows(1, row, stride, size, most, limit, out, out_stride, units); break;
    }
}

INLINE void rms_norm_rows(int rows, const float *row, int64_t stride, const float *weight,
                          int64_t size, float eps, float *out, int64_t out_stride) {
    vec squares[SIDE_BY_SIDE], scale[SIDE_BY_SIDE];
    for (int r = 0; r < rows; r++) squares[r] = (vec){0};
    for (int64_t i = 0; i < size; i += LANES)
        for (int r = 0; r < rows; r++) {
            vec v = load(row + r * stride + i);
            squares[r] = fma_vec(v, v, squares[r]);
        }
    for (int r = 0; r < rows; r++) {
        float total = sum_lanes(squares[r]);
        /* Of a sum that overflows the root's inverse is 0, which would make a row of plausible
         * zeros. */
        scale[r] = splat(isfinite(total) ? 1.0f / sqrtf(total / (float)size + eps) : NAN);
    }
    for (int64_t i = 0; i < size; i += LANES)
        for (int r = 0; r < rows; r++)
            store(out + r * out_stride + i,
                  load(row + r * stride + i) * scale[r] * load(weight + i));
}

static void rms_norms(int64_t rows, const float *row, int64_t stride, const float *weight,
                      int64_t size, float eps, float *out) {
    for (; rows >= SIDE_BY_SIDE; rows -= SIDE_BY_SIDE) {
        rms_norm_rows(SIDE_BY_SIDE, row, stride, weight, size, eps, out, size);
        row += SIDE_BY_SIDE * stride;
        out += SIDE_BY_SIDE * size;
    }
    for (; rows > 0; rows--, row += stride, out += size)
        rms_norm_rows(1, row, stride, weight, size, eps, out, size);
}

static void rms_norm(const float *row, const float *weight, int64_t size, float eps, float *out) {
    rms_norm_rows(1, row, 0, weight, size, eps, out, 0);
}

static void rotate(float *head, const float *cos, const float *sin, int64_t size) {
    int64_t half = size / 2;
    for (int64_t i = 0; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cos[i] - second * sin[i];
        head[i + half] = second * cos[i] + first * sin[i];
    }
}

INLINE float dot(const float *a, const float *b, int64_t size) {
    vec total = {0};
    for (int64_t i = 0; i < size; i += LANES) total = fma_vec(load(a + i), load(b + i), total);
    return sum_lanes(total);
}
