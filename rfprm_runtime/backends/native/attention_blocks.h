/* Attention of many queries to one page, where the instruction set multiplies many rows at once: the
 * sums, and so the bits, of attention.h. */

#pragma once

#include "attention.h"

#define MANY_QUERIES MANY_ROWS

#if HAS_BLOCKS
/* The working memory. */
typedef struct {
    char *keys, *values; /* of the page, packed */
    char *weights;       /* of a block, packed */
    int16_t *block;      /* [BLOCK_ROWS][head_dim] of queries */
    char *queries;       /* all of them, packed */
} AttentionRoom;

/* Lays it out from `base`, and returns its size; base may be NULL for the size. */
static int64_t lay_out_room(int64_t rows, int64_t head_dim, char *base, AttentionRoom *room) {
    int64_t used = 0;
    room->keys = base;
    used += packed_panel_bytes(head_dim, PAGE);
    room->values = base + used;
    used += packed_panel_bytes(PAGE, head_dim);
    room->weights = base + used;
    used += packed_rows_bytes(BLOCK_ROWS, PAGE);
    room->block = (int16_t *)(base + used);
    used += BLOCK_ROWS * head_dim * (int64_t)sizeof(int16_t);
    room->queries = base + used;
    return used + packed_rows_bytes(rows, head_dim);
}

/* Memory for so many queries of one key head. */
static int64_t attention_room_bytes(int64_t rows, int64_t head_dim) {
    AttentionRoom room;
    return lay_out_room(rows, head_dim, NULL, &room);
}

/* Packs queries, block by block, for all pages. */
static void pack_queries(int64_t count, const AttentionRow *row, int64_t head_dim, char *work) {
    AttentionRoom room;
    lay_out_room(count, head_dim, work, &room);
    for (int64_t first = 0; first < count; first += BLOCK_ROWS) {
        int64_t rows = least(count - first, BLOCK_ROWS);
        for (int64_t r = 0; r < rows; r++)
            memcpy(room.block + r * head_dim, row[first + r].query,
                   (size_t)head_dim * sizeof(int16_t));
        pack_rows(16, room.block, rows, head_dim,
                  room.queries + packed_rows_bytes(first, head_dim));
    }
}

/* A block of queries, against the page whose keys and values are in `room`. Those before `from` do
 * not see it. Of both products one group of columns is multiplied while the last one is read. */
static void attend_block(int from, int count, const AttentionRow *row, const Page *page,
                         int64_t first_key, int64_t head_dim, const char *queries,
                         const AttentionRoom *room) {
    const int rows = count - from; /* that see it */
    float weights[BLOCK_ROWS][PAGE], units[ROW_LANES]; /* weights: logits at first */
    int16_t whole[BLOCK_ROWS][PAGE];
    vec shrink[BLOCK_ROWS], sum[BLOCK_ROWS], best[BLOCK_ROWS];
    int32_t sums[2][GROUP_SUMS] __attribute__((aligned(64)));
    row += from;
    for (int64_t g = 0; g <= PAGE / 16; g++) {
        if (g < PAGE / 16)
            multiply_group(g, count, queries, room->keys + g * group_bytes(head_dim), head_dim,
                           sums[g % 2]);
        for (int r = 0; r < rows && g > 0; r++)
            for (int key = 0; key < 16; key += LANES)
                put_logits(row + r, page, 16 * (int)(g - 1) + key,
                           sums_of_group(sums[(g - 1) % 2], from + r, key), weights[r]);
    }
    raise_largest(rows, row, first_key, weights, shrink);
    for (int r = 0; r < rows; r++) {
        weigh_row(row + r, page, first_key, weights[r], shrink[r], sum + r, best + r);
        if (r % 4 == 3) stay_awake();
    }
    memset(whole[0], 0, (size_t)from * sizeof whole[0]);
    round_weights(rows, weights, sum, best, whole + from, units);
    stay_awake();
    pack_rows(16, whole[0], count, PAGE, room->weights);
    for (int64_t g = 0; g <= head_dim / 16; g++) {
        if (g < head_dim / 16)
            multiply_group(g, count, room->weights, room->values + g * group_bytes(PAGE), PAGE,
                           sums[g % 2]);
        for (int r = 0; r < rows && g > 0; r++)
            for (int64_t column = 0; column < 16; column += LANES)
                add_mixed(row + r, 16 * (g - 1) + column,
                          sums_of_group(sums[(g - 1) % 2], from + r, column), units[r], shrink[r]);
    }
}

/* Those of `count` queries from number `first` on. Values of positions that hold nothing yet may be
 * anything, and meet weights of 0. */
static void attend_in_blocks(int64_t first, int64_t count, const AttentionRow *row,
                             const Page *page, int64_t first_key, int64_t head_dim, char *work) {
    AttentionRoom room;
    lay_out_room(count, head_dim, work, &room);
    pack_panel(16, (const int32_t *)page->keys, head_dim, PAGE, room.keys);
    pack_panel(16, (const int32_t *)page->values, PAGE, head_dim, room.values);
    begin_blocks();
    for (int64_t begin = first / BLOCK_ROWS * BLOCK_ROWS; begin < count; begin += BLOCK_ROWS) {
        int rows = (int)least(count - begin, BLOCK_ROWS);
        begin_block(rows);
        attend_block((int)most(first - begin, 0), rows, row + begin, page, first_key,
                     head_dim, room.queries + packed_rows_bytes(begin, head_dim), &room);
        end_block(rows);
    }
    end_blocks();
}
#else /* every query goes through a tile */
#define pack_queries(count, row, head_dim, work) (void)(work)
#define attend_in_blocks(first, count, row, page, first_key, head_dim, work) (void)(work)
static int64_t attention_room_bytes(int64_t rows, int64_t head_dim) { return 0 * rows * head_dim; }
#endif
