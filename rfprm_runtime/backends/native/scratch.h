/* The working memory of one run. */

#pragma once

#include "numbers.h"
#include "structures.h"

/* Between the parts of the scratch memory is nothing, except in a build that is watched for access
 * out of bounds (scripts/sanitize_kernels.py): a gap that must not be touched. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define GAP 64
static void fence(char *from, int64_t bytes, int64_t taken) {
    __asan_unpoison_memory_region(from, (size_t)bytes);
    __asan_poison_memory_region(from + bytes, (size_t)(taken - bytes));
}
#else
#define GAP 0
static void fence(char *from, int64_t bytes, int64_t taken) { (void)from, (void)bytes, (void)taken; }
#endif

#define MAX_ROWS 512 /* tokens that go through a layer at once */

typedef struct {
    float *hidden;     /* [num_tokens][hidden_stride], the residual stream */
    float *wide;       /* [rows][widest linear] */
    float *mixed;      /* [rows][heads * head_dim] */
    number *queries;   /* [rows][heads * head_dim] */
    float *query_units; /* [rows][heads] */
    Inputs inputs;     /* for the deepest linear */
    float *line;       /* [SIDE_BY_SIDE][widest row] */
    float *weights;    /* [rows * group][LANES], of attention, their running sums by lane */
    float *largest;    /* [rows * group] and a vector more, the largest logits */
    AttentionRow *rows;
    int64_t hidden_stride, wide_stride;
} Scratch;


/* Lays out the scratch memory from `base` and returns its size; base may be NULL for the size. */
static int64_t lay_out(const Model *m, int64_t num_tokens, char *base, Scratch *s) {
    int64_t query_size = m->num_heads * m->head_dim;
    int64_t rows = num_tokens < MAX_ROWS ? num_tokens : MAX_ROWS;
    int64_t qkv = query_size + 2 * m->num_kv_heads * m->head_dim;
    int64_t group = m->num_heads / m->num_kv_heads;
    s->hidden_stride = round_up(m->hidden, PANEL);
    /* At the end the head's input goes there too. */
    s->wide_stride = round_up(most(most(qkv, round_up(m->inner, 32)), m->hidden), PANEL);
    int64_t deepest = most(most(m->hidden, query_size), m->inner), used = 0;
#define TAKE(field, bytes)                                                                       \
    do {                                                                                         \
        int64_t taken = round_up(bytes, 64) + GAP;                                               \
        s->field = (void *)(base + used);                                                        \
        if (base) fence(base + used, bytes, taken);                                              \
        used += taken;                                                                           \
    } while (0)
    TAKE(hidden, num_tokens * s->hidden_stride * 4);
    TAKE(wide, rows * s->wide_stride * 4);
    TAKE(mixed, rows * query_size * 4);
    TAKE(queries, rows * query_size * (int64_t)sizeof(number));
    TAKE(query_units, rows * m->num_heads * 4);
    TAKE(inputs.numbers, input_bytes(rows, deepest));
    TAKE(inputs.units, rows * 4);
    TAKE(inputs.work, work_bytes(rows, deepest, rows * group, m->head_dim));
    TAKE(line, most(SIDE_BY_SIDE * deepest, round_up(m->head_inner, LANES)) * 4);
    TAKE(weights, rows * group * LANES * 4);
    TAKE(largest, (rows * group + LANES) * 4);
    TAKE(rows, rows * group * (int64_t)sizeof(AttentionRow));
#undef TAKE
    return used;
}
