/* Many rows at once by products of bytes. A 16-bit input is 256 * high + low with an unsigned low
 * byte. A weight is 256 * high + low + 128 with a signed one, so that the instructions find the
 * signs they take; what the 128 adds is 128 times the sum of a row's inputs. Sums wrap around, like
 * those of the other instructions, and so get the same bits. */

#pragma once

#define MANY_ROWS 8
#define BLOCK_ROWS 8 /* four pairs of rows times four columns fit the registers */

/* Pairs of rows: 128 times their sums, then [depth / 8][bits / 8][2][8] bytes, low ones first. */
static int64_t packed_pair_bytes(int64_t depth) { return 16 + 4 * depth; }
static int64_t packed_rows_bytes(int64_t rows, int64_t depth) {
    return (rows + 1) / 2 * packed_pair_bytes(depth);
}
/* A panel: [width / 4][depth / 8][2 pairs of columns][bits / 8][2][8] bytes. */
static int64_t packed_panel_bytes(int64_t depth, int64_t width) { return 2 * width * depth; }

static void pack_pair(int bits, const int16_t *one, const int16_t *two, int64_t depth, char *to) {
    int32x4_t sums[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    int8_t *bytes = (int8_t *)to + 16;
    for (int64_t i = 0; i < depth; i += 8, bytes += 2 * bits) {
        if (bits == 8) {
            vst1_s8(bytes, vld1_s8((const int8_t *)one + i));
            vst1_s8(bytes + 8, vld1_s8((const int8_t *)two + i));
            continue;
        }
        int16x8_t a = vld1q_s16(one + i), b = vld1q_s16(two + i);
        sums[0] = vpadalq_s16(sums[0], a);
        sums[1] = vpadalq_s16(sums[1], b);
        vst1q_s8(bytes, vuzp1q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b)));
        vst1q_s8(bytes + 16, vuzp2q_s8(vreinterpretq_s8_s16(a), vreinterpretq_s8_s16(b)));
    }
    int32x4_t both = vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vdupq_n_s32(0));
    vst1q_s32((int32_t *)to, vshlq_n_s32(both, 7));
}

/* An odd last row is its own partner. */
static void pack_rows(int bits, const int16_t *rows, int64_t count, int64_t depth, char *to) {
    for (int64_t row = 0; row < count; row += 2, to += packed_pair_bytes(depth)) {
        const int16_t *one = rows + row * depth;
        pack_pair(bits, one, row + 1 < count ? one + depth : one, depth, to);
    }
}

/* Eight weights of four columns, from the words of eight / (32 / bits) steps. */
INLINE void pack_columns(int bits, const int32_t *words, int64_t width, int8_t *to) {
    int32x4_t a = vld1q_s32(words), b = vld1q_s32(words + width);
    int32x4_t low = vzip1q_s32(a, b), high = vzip2q_s32(a, b); /* two columns each */
    if (bits == 8) {
        vst1q_s8(to, vreinterpretq_s8_s32(low));
        vst1q_s8(to + 16, vreinterpretq_s8_s32(high));
        return;
    }
    int32x4_t c = vld1q_s32(words + 2 * width), d = vld1q_s32(words + 3 * width);
    int64x2_t before[2] = {vreinterpretq_s64_s32(low), vreinterpretq_s64_s32(high)};
    int64x2_t after[2] = {vreinterpretq_s64_s32(vzip1q_s32(c, d)),
                          vreinterpretq_s64_s32(vzip2q_s32(c, d))};
    for (int pair = 0; pair < 2; pair++, to += 32) {
        int8x16_t one = vreinterpretq_s8_s64(vzip1q_s64(before[pair], after[pair]));
        int8x16_t two = vreinterpretq_s8_s64(vzip2q_s64(before[pair], after[pair]));
        vst1q_s8(to, veorq_s8(vuzp1q_s8(one, two), vdupq_n_s8(-128))); /* minus 128 */
        vst1q_s8(to + 16, vuzp2q_s8(one, two));
    }
}

static void pack_panel(int bits, const int32_t *panel, int64_t depth, int64_t width,
                       char *packed) {
    int8_t *to = (int8_t *)packed;
    for (int64_t i = 0; i < depth; i += 8, panel += bits / 4 * width, to += 4 * bits)
        for (int64_t column = 0; column < width; column += 4)
            pack_columns(bits, panel + column, width, to + column * depth * bits / 8);
}

/* `pairs` of rows times four columns; sums are [rows][width]. */
INLINE void multiply_tile(int bits, int pairs, const char *rows, const char *columns, int64_t depth,
                          int64_t width, int32_t *sums) {
    const int8_t *weights = (const int8_t *)columns, *inputs = (const int8_t *)rows + 16;
    int32x4_t low[BLOCK_ROWS / 2][2], middle[BLOCK_ROWS / 2][2], high[BLOCK_ROWS / 2][2];
    for (int r = 0; r < pairs; r++) {
        int32x2_t first = vld1_s32((const int32_t *)(rows + r * packed_pair_bytes(depth)));
        for (int c = 0; c < 2; c++) {
            low[r][c] = vcombine_s32(vdup_lane_s32(first, 0), vdup_lane_s32(first, 1));
            middle[r][c] = high[r][c] = vdupq_n_s32(0);
        }
    }
    for (int64_t i = 0; i < depth; i += 8, inputs += 2 * bits, weights += 4 * bits) {
        int8x16_t b[2][2];
        for (int c = 0; c < 2; c++)
            for (int plane = 0; plane < bits / 8; plane++)
                b[c][plane] = vld1q_s8(weights + 2 * bits * c + 16 * plane);
        for (int r = 0; r < pairs; r++) {
            int8x16_t a = vld1q_s8(inputs + r * packed_pair_bytes(depth));
            if (bits == 8) {
                for (int c = 0; c < 2; c++) low[r][c] = vmmlaq_s32(low[r][c], a, b[c][0]);
                continue;
            }
            int8x16_t a_high = vld1q_s8(inputs + r * packed_pair_bytes(depth) + 16);
            uint8x16_t a_low = vreinterpretq_u8_s8(a);
            for (int c = 0; c < 2; c++) {
                low[r][c] = vusmmlaq_s32(low[r][c], a_low, b[c][0]);
                middle[r][c] = vusmmlaq_s32(middle[r][c], a_low, b[c][1]);
                high[r][c] = vmmlaq_s32(high[r][c], a_high, b[c][1]);
            }
            for (int c = 0; c < 2; c++) middle[r][c] = vmmlaq_s32(middle[r][c], a_high, b[c][0]);
        }
    }
    for (int r = 0; r < pairs; r++) {
        int64x2_t whole[2];
        for (int c = 0; c < 2; c++) {
            int32x4_t sum = vaddq_s32(middle[r][c], vshlq_n_s32(high[r][c], 8));
            whole[c] = vreinterpretq_s64_s32(vaddq_s32(low[r][c], vshlq_n_s32(sum, 8)));
        }
        int32_t *to = sums + 2 * r * width;
        vst1q_s32(to, vreinterpretq_s32_s64(vzip1q_s64(whole[0], whole[1])));
        vst1q_s32(to + width, vreinterpretq_s32_s64(vzip2q_s64(whole[0], whole[1])));
    }
}

/* Up to BLOCK_ROWS packed rows times a packed panel of `width` columns; sums are [rows rounded up to
 * pairs][width]. */
INLINE void multiply_panel(int bits, int64_t count, const char *rows, const char *panel,
                           int64_t depth, int64_t width, int32_t *sums) {
#define TILE_OF(pairs) multiply_tile(bits, pairs, rows, panel, depth, width, sums)
    for (int64_t column = 0; column < width; column += 4) {
        switch ((count + 1) / 2) {
        case 4: TILE_OF(4); break;
        case 3: TILE_OF(3); break;
        case 2: TILE_OF(2); break;
        case 1: TILE_OF(1); break;
        }
        panel += depth * bits / 2;
        sums += 4;
    }
#undef TILE_OF
}

/* A slice is a whole panel of 64 columns, multiplied in one step. */
#define SLICE_GROUPS(bits) 4 /* of 16 columns */
#define SLICE_SUMS (BLOCK_ROWS * 64)
INLINE int64_t slice_bytes(int bits, int64_t depth) { return depth * 64 * bits / 8; }
INLINE int64_t slice_steps(int bits, int64_t depth) {
    (void)bits, (void)depth;
    return 1;
}
#define begin_slice(bits, rows, slice) (void)(slice)
#define end_slice(sums) (void)(sums)

INLINE void step_slice(int bits, int64_t step, int64_t count, const char *rows, const char *slice,
                       int64_t depth, int32_t *sums) {
    (void)step;
    multiply_panel(bits, count, rows, slice, depth, 64, sums);
}

INLINE ivec sums_of_slice(int bits, const int32_t *sums, int64_t group, int64_t row,
                          int64_t column) {
    (void)bits;
    return *(const ivec *)(sums + row * 64 + group * 16 + column);
}

/* 16 columns of 16-bit numbers. */
#define GROUP_SUMS (BLOCK_ROWS * 16)
INLINE int64_t group_bytes(int64_t depth) { return 2 * 16 * depth; }

INLINE void multiply_group(int64_t group, int64_t count, const char *rows, const char *columns,
                           int64_t depth, int32_t *sums) {
    (void)group;
    multiply_panel(16, count, rows, columns, depth, 16, sums);
}

INLINE ivec sums_of_group(const int32_t *sums, int64_t row, int64_t column) {
    return *(const ivec *)(sums + row * 16 + column);
}

INLINE void stay_awake(void) {}

static void begin_blocks(void) {}
static void end_blocks(void) {}
#define begin_block(rows) (void)(rows)
#define end_block(rows) (void)(rows)
