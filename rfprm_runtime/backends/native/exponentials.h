/* Powers of e and of 2, accurate enough for float32 weights and gates.
 *
 * NaN stays NaN. vmax returns its second argument when one is NaN, so the limit comes first; and a
 * NaN that arithmetic makes ends in zeros, which shift out of `bits`. Weights, which could bring
 * others, are finite: model_file.py checks that. Beside a NaN an exponent may be any, so it is added
 * without a sign, which wraps. */

#pragma once

#include "isa.h"

/* e^x for x <= 0 (and a little above): 2^n times a polynomial, relative error below 2e-7. */
INLINE vec exp_vec(vec x) {
    x = vmax(splat(-87.0f), x);
    vec rounder = splat(12582912.0f); /* 1.5 * 2^23: a sum with it is rounded to an integer */
    vec shifted = fma_vec(x, splat(1.44269504f), rounder), n = shifted - rounder;
    vec r = fma_vec(n, splat(-0.693359375f), x);
    r = fma_vec(n, splat(2.12194440e-4f), r);
    vec p = fma_vec(r, splat(1.9875691500e-4f), splat(1.3981999507e-3f));
    p = fma_vec(p, r, splat(8.3334519073e-3f));
    p = fma_vec(p, r, splat(4.1665795894e-2f));
    p = fma_vec(p, r, splat(1.6666665459e-1f));
    p = fma_vec(p, r, splat(5.0000001201e-1f));
    p = fma_vec(p, r * r, r) + 1.0f;
    uvec bits = (uvec)shifted << 23; /* n in the exponent; what the rounder left is shifted out */
    return (vec)((uvec)p + bits);
}

/* 2^x for x <= 0 (and a little above), relative error below 3e-7. */
INLINE vec exp2_vec(vec x) {
    x = vmax(splat(-120.0f), x);
    vec shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f);
    vec p = fma_vec(r, splat(1.327647177e-3f), splat(9.675541333e-3f));
    p = fma_vec(p, r, splat(5.550713274e-2f));
    p = fma_vec(p, r, splat(2.402211972e-1f));
    p = fma_vec(p, r, splat(6.931469671e-1f));
    p = fma_vec(p, r, splat(1.000000072f));
    uvec bits = (uvec)shifted << 23; /* n in the exponent; what the rounder left is shifted out */
    return (vec)((uvec)p + bits);
}

INLINE vec silu(vec x) { /* x / (1 + e^-x), written so that the exponential is at most 1 */
    vec small = exp_vec(-vabs(x));
    vec numerator = (vec)(((x > 0) & (ivec)(x)) | (~(x > 0) & (ivec)(x * small)));
    return numerator / (small + 1.0f);
}
