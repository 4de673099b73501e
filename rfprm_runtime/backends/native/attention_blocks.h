/* Attention of many queries to one page, where the instruction set multiplies many rows at once: the
 * sums, and so the bits, of attention.h. */

#pragma once

#include "attention.h"

#define MANY_QUERIES MANY_ROWS

#if HAS_BLOCKS
/* The working memory. */
typedef struct {
    char *keys, *values; /* of the page, packed */
    char *packed;        /* a block of queries or of weights */
    int16_t *queries;    /* [BLOCK_ROWS][head_dim] */
    int32_t *sums;       /* [BLOCK_ROWS][head_dim or 64] */
} AttentionRoom;

/* Lays it out from `base`, and returns its size; base may be NULL for the size. */
static int64_t lay_out_room(int64_t head_dim, char *base, AttentionRoom *room) {
    int64_t widest = head_dim > PAGE ? head_dim : PAGE, used = 0;
    room->keys = base;
    used += packed_panel_bytes(head_dim, PAGE);
    room->values = base + used;
    used += packed_panel_bytes(PAGE, head_dim);
    room->packed = base + used;
    used += packed_rows_bytes(BLOCK_ROWS, widest);
    room->queries = (int16_t *)(base + used);
    used += BLOCK_ROWS * head_dim * (int64_t)sizeof(int16_t);
    room->sums = (int32_t *)(base + used);
    return used + BLOCK_ROWS * widest * (int64_t)sizeof(int32_t);
}

static int64_t attention_room_bytes(int64_t head_dim) {
    AttentionRoom room;
    return lay_out_room(head_dim, NULL, &room);
}

/* A block of queries, against the page whose keys and values are in `room`. */
static void attend_block(int rows, const AttentionRow *row, const Page *page, int64_t first_key,
                         int64_t head_dim, const AttentionRoom *room) {
    float weights[BLOCK_ROWS][PAGE], units[BLOCK_ROWS]; /* weights: logits at first */
    int16_t whole[BLOCK_ROWS][PAGE];
    vec shrink[BLOCK_ROWS];
    for (int r = 0; r < rows; r++)
        memcpy(room->queries + r * head_dim, row[r].query, (size_t)head_dim * sizeof(int16_t));
    pack_rows(16, room->queries, rows, head_dim, room->packed);
    multiply_block(16, rows, room->packed, room->keys, head_dim, PAGE, room->sums);
    for (int r = 0; r < rows; r++)
        for (int key = 0; key < PAGE; key += LANES)
            put_logits(row + r, page, key, *(const ivec *)(room->sums + r * PAGE + key),
                       weights[r]);
    raise_largest(rows, row, first_key, weights, shrink);
    for (int r = 0; r < rows; r++)
        units[r] = weigh(row + r, page, first_key, weights[r], shrink[r], whole[r]);
    pack_rows(16, whole[0], rows, PAGE, room->packed);
    multiply_block(16, rows, room->packed, room->values, PAGE, head_dim, room->sums);
    for (int r = 0; r < rows; r++)
        for (int64_t column = 0; column < head_dim; column += LANES)
            add_mixed(row + r, column, *(const ivec *)(room->sums + r * head_dim + column),
                      units[r], shrink[r]);
}

/* Values of positions that hold nothing yet may be anything, and meet weights of 0. */
static void attend_in_blocks(int64_t count, const AttentionRow *row, const Page *page,
                             int64_t first_key, int64_t head_dim, char *work) {
    AttentionRoom room;
    lay_out_room(head_dim, work, &room);
    pack_panel(16, (const int32_t *)page->keys, head_dim, PAGE, room.keys);
    pack_panel(16, (const int32_t *)page->values, PAGE, head_dim, room.values);
    begin_blocks();
    for (; count > 0; count -= BLOCK_ROWS, row += BLOCK_ROWS)
        attend_block(count < BLOCK_ROWS ? (int)count : BLOCK_ROWS, row, page, first_key, head_dim,
                     &room);
    end_blocks();
}
#else /* every query goes through a tile */
#define attend_in_blocks(count, row, page, first_key, head_dim, work) (void)(work)
static int64_t attention_room_bytes(int64_t head_dim) { return 0 * head_dim; }
#endif
