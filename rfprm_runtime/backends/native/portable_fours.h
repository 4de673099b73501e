/* Dot products of four 8-bit numbers, for instruction sets that only have dot_pairs. Inputs stay 16
 * bits wide; the even and the odd ones of each four are paired, to meet the even and the odd bytes
 * of the weights. */

#pragma once

#define FOUR_BYTES 8
#define INPUT_SHIFT 0

INLINE ivec dot_fours(ivec sum, const char *at, ivec b) {
    int32_t even = load_int32(at), odd = load_int32(at + 4);
    sum = dot_pairs(sum, even, (ivec)((svec)((svec)b << 8) >> 8)); /* bytes 0 and 2 */
    return dot_pairs(sum, odd, (ivec)((svec)b >> 8));              /* bytes 1 and 3 */
}

static void narrow(int16_t *row, int64_t size) {
    for (int64_t i = 0; i < size; i += 4) {
        int16_t one = row[i + 1];
        row[i + 1] = row[i + 2];
        row[i + 2] = one;
    }
}
