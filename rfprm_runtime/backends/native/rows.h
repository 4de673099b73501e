/* Operations on one row: to integers, normalise, rotate, multiply with another row. */

#pragma once

#include <math.h>

#include "isa.h"
#include "structures.h"

static void to_integers(const float *row, int64_t size, float per_unit, int16_t *out) {
    for (int64_t i = 0; i < size; i += LANES) {
        vec shifted = load(row + i) * per_unit + 12582912.0f;
        ivec whole = (ivec)shifted - 0x4b400000;
        store_int16(out + i, whole);
    }
}

/* Turns a row into integers of at most `most`; returns the size of a unit, the smallest that keeps
 * the norm of the integers within `limit` too. By Cauchy and Schwarz a sum of products is at most
 * the product of both norms, and it has to fit 32 bits. */
static float quantise(const float *row, int64_t size, double most, double limit, int16_t *out) {
    vec largest = {0}, squares = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        vec v = load(row + i);
        largest = vmax(largest, vabs(v));
        squares = fma_vec(v, v, squares);
    }
    double by_range = max_lanes(largest) / most;
    double by_norm = sqrt((double)sum_lanes(squares)) * 1.0001 / limit;
    float unit = (float)(by_range > by_norm ? by_range : by_norm);
    /* A row that is not finite shows in its squares. It has no integers and must not look as if it
     * had: its unit makes NaN of everything that depends on it, which the caller sees. */
    if (!isfinite(unit)) {
        memset(out, 0, (size_t)size * sizeof *out);
        return NAN;
    }
    if (unit < 1e-30f) unit = 1e-30f;
    to_integers(row, size, 1.0f / unit, out);
    return unit;
}

/* Turns a row of inputs into the integers that `linear` takes; returns the size of a unit. */
static float quantise_input(const float *row, const Linear *linear, int16_t *out) {
    if (linear->bits == 16)
        return quantise(row, linear->depth, 32767, linear->activation_limit, out);
    float unit = quantise(row, linear->depth, 127, INFINITY, out);
    narrow(out, linear->depth);
    return unit;
}

static void rms_norm(const float *row, const float *weight, int64_t size, float eps, float *out) {
    vec squares = {0};
    for (int64_t i = 0; i < size; i += LANES) {
        vec v = load(row + i);
        squares = fma_vec(v, v, squares);
    }
    float total = sum_lanes(squares);
    /* Of a sum that overflows the root's inverse is 0, which would make a row of plausible zeros. */
    float scale = isfinite(total) ? 1.0f / sqrtf(total / (float)size + eps) : NAN;
    for (int64_t i = 0; i < size; i += LANES)
        store(out + i, load(row + i) * scale * load(weight + i));
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
