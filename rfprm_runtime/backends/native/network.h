/* The parts of a layer, the embedding before the first layer and the head after the last. */

#pragma once

#include "numbers.h"
#include "rows.h"
#include "scratch.h"

static void take_normed(const Scratch *s, const float *hidden, const float *norm,
                        const Linear *linear, int64_t rows, float eps) {
    for (int64_t row = 0; row < rows; row += SIDE_BY_SIDE) {
        int64_t count = least(rows - row, SIDE_BY_SIDE), depth = linear->depth;
        const float *from = hidden + row * s->hidden_stride;
        rms_norms(count, from, s->hidden_stride, norm, depth, eps, s->line);
        take_some(&s->inputs, row, count, rows, s->line, depth, linear);
    }
}

static void take_inputs(const Scratch *s, const float *from, int64_t stride, const Linear *linear,
                        int64_t rows) {
    for (int64_t row = 0; row < rows; row += SIDE_BY_SIDE)
        take_some(&s->inputs, row, least(rows - row, SIDE_BY_SIDE), rows, from + row * stride,
                     stride, linear);
}

static int64_t layer_bytes(const Model *m) { /* of a page */
    return m->num_kv_heads * head_bytes(m);
}

/* A segment's rows among those that go through a layer at once. */
typedef struct {
    int64_t begin, end; /* rows */
    int64_t shift;      /* the position of a row is the row plus this */
    char *const *pages;
} Part;

/* The parts of rows first, first + 1, …; returns how many. */
static int64_t find_parts(const Segment *segments, int64_t first, int64_t rows, Part *parts) {
    int64_t count = 0, from = 0; /* the first row of the segment */
    for (; from < first + rows; from += segments->num_tokens, segments++) {
        int64_t to = from + segments->num_tokens;
        if (to <= first) continue;
        parts[count++] = (Part){
            .begin = most(from - first, 0),
            .end = to < first + rows ? to - first : rows,
            .shift = segments->start + first - from,
            .pages = segments->pages,
        };
    }
    return count;
}

/* Rotates queries, keys and values of a part's rows and puts them in their places: queries go to
 * the scratch memory, the others to the page of their position, where this layer begins at
 * `offset`. */
static void place_keys(const Model *m, const Layer *layer, const Scratch *s, int64_t offset,
                       const Part *part) {
    int64_t size = m->head_dim, half = size / 2;
    float query_scale = 1.44269504f / sqrtf((float)size);
    for (int64_t row = part->begin; row < part->end; row++) {
        int64_t position = part->shift + row, slot = position % PAGE;
        const float *cos = m->cos + position * half, *sin = m->sin + position * half;
        float *head = s->wide + row * s->wide_stride;
        char *place = part->pages[position / PAGE] + offset;
        float *units = s->query_units + row * m->num_heads;
        for (int64_t h = 0; h < m->num_heads; h++, head += size) {
            if (layer->query_norm) rms_norm(head, layer->query_norm, size, m->eps, head);
            rotate(head, cos, sin, size);
        }
        take_queries(m->num_heads, head - m->num_heads * size, size,
                     s->queries + row * m->num_heads * size, units);
        for (int64_t h = 0; h < m->num_heads; h++) units[h] *= query_scale;
        for (int64_t h = 0; h < m->num_kv_heads; h++, head += size) {
            Page page = page_of(m, place, h);
            if (layer->key_norm) rms_norm(head, layer->key_norm, size, m->eps, head);
            rotate(head, cos, sin, size);
            place_key(&page, slot, head, size, s->line);
        }
        for (int64_t h = 0; h < m->num_kv_heads; h++, head += size) {
            Page page = page_of(m, place, h);
            place_value(&page, slot, head, size, s->line);
        }
    }
}

/* Queries from number `first` on against a page that those before it do not see. */
static void attend_rows(int64_t first, int64_t count, const AttentionRow *row, const Page *page,
                        int64_t first_key, int64_t head_dim, void *work) {
    if (count >= MANY_QUERIES) {
        attend_in_blocks(first, count, row, page, first_key, head_dim, work);
        return;
    }
    for (row += first, count -= first; count >= TILE; count -= TILE, row += TILE)
        attend_tile(TILE, row, page, first_key, head_dim);
    switch (count) {
    case 5: attend_tile(5, row, page, first_key, head_dim); break;
    case 4: attend_tile(4, row, page, first_key, head_dim); break;
    case 3: attend_tile(3, row, page, first_key, head_dim); break;
    case 2: attend_tile(2, row, page, first_key, head_dim); break;
    case 1: attend_tile(1, row, page, first_key, head_dim); break;
    }
}

/* Attention of rows of one part (`chosen`, ascending), all heads; results in `mixed`, row by row. */
static void attend(const Model *m, const Scratch *s, int64_t offset, const Part *part,
                   const int64_t *chosen, int64_t count, float *mixed) {
    int64_t size = m->head_dim, group = m->num_heads / m->num_kv_heads;
    int64_t query_size = m->num_heads * size;
    memset(mixed, 0, (size_t)(count * query_size) * sizeof(float));
    for (int64_t kv = 0; kv < m->num_kv_heads; kv++) {
        AttentionRow *row = s->rows;
        for (int64_t i = 0; i < count; i++)
            for (int64_t g = 0; g < group; g++, row++) {
                int64_t head = kv * group + g;
                row->largest = s->largest + i * group + g;
                *row->largest = -INFINITY; /* nothing finite is below it, whatever the logits */
                row->weights = s->weights + (i * group + g) * LANES;
                memset(row->weights, 0, LANES * sizeof(float));
                row->query = s->queries + (chosen[i] * m->num_heads + head) * size;
                row->unit = s->query_units[chosen[i] * m->num_heads + head];
                row->mixed = mixed + i * query_size + head * size;
                row->position = part->shift + chosen[i];
            }
        if (count * group >= MANY_QUERIES)
            pack_queries(count * group, s->rows, size, s->inputs.work);
        int64_t last = count ? part->shift + chosen[count - 1] : -1, first = 0;
        for (int64_t page = 0; page * PAGE <= last; page++) {
            while (part->shift + chosen[first] < page * PAGE) first++; /* rows before this page */
            Page memory = page_of(m, part->pages[page] + offset, kv);
            attend_rows(first * group, count * group, s->rows, &memory, page * PAGE, size,
                        s->inputs.work);
        }
        for (row = s->rows; row < s->rows + count * group; row++) {
            float scale = 1.0f / sum_lanes(load(row->weights));
            for (int64_t d = 0; d < size; d += LANES)
                store(row->mixed + d, load(row->mixed + d) * scale);
        }
    }
}

static void read_head(const Model *m, const Scratch *s, const float *row, float *logits) {
    float *normed = s->wide, *inner = s->line;
    rms_norm(row, m->final_norm, m->hidden, m->eps, normed);
    const float *from = normed, *weight = m->head_weight, *bias = m->head_bias;
    int64_t depth = m->hidden;
    if (m->head_inner) {
        for (int64_t i = 0; i < m->head_inner; i++) {
            float x = dot(normed, weight + i * depth, depth) + (bias ? bias[i] : 0.0f);
            inner[i] = x < 0 ? 0 : x; /* in this form NaN stays NaN */
        }
        from = inner, weight = m->head_weight2, bias = m->head_bias2, depth = m->head_inner;
    }
    for (int64_t i = 0; i < m->num_labels; i++)
        logits[i] = dot(from, weight + i * depth, depth) + (bias ? bias[i] : 0.0f);
}

static void embed(const Model *m, const Scratch *s, const int64_t *ids, int64_t num_tokens) {
    for (int64_t row = 0; row < num_tokens; row++) {
        float *to = s->hidden + row * s->hidden_stride;
        embed_row(m, ids[row], to);
        for (int64_t i = m->hidden; i < s->hidden_stride; i++) to[i] = 0; /* padding */
    }
}

/* Between the pieces of a model, rows are [num_tokens][hidden], without padding. */
static void take_rows(const Model *m, const Scratch *s, const float *from, int64_t num_tokens) {
    for (int64_t row = 0; row < num_tokens; row++) {
        float *to = s->hidden + row * s->hidden_stride;
        memcpy(to, from + row * m->hidden, (size_t)m->hidden * sizeof(float));
        for (int64_t i = m->hidden; i < s->hidden_stride; i++) to[i] = 0;
    }
}

static void leave_rows(const Model *m, const Scratch *s, float *to, int64_t num_tokens) {
    for (int64_t row = 0; row < num_tokens; row++)
        memcpy(to + row * m->hidden, s->hidden + row * s->hidden_stride,
               (size_t)m->hidden * sizeof(float));
}

/* The rest of a layer after the keys: attention of the chosen rows, then their MLP. `hidden` holds
 * only those rows. */
static void finish_layer(const Model *m, const Layer *layer, const Scratch *s, float *hidden,
                         int64_t offset, const Part *parts, int64_t num_parts,
                         const int64_t *chosen, int64_t count) {
    int64_t stride = s->hidden_stride, query_size = m->num_heads * m->head_dim, from = 0;
    for (const Part *part = parts; part < parts + num_parts; part++) {
        int64_t to = from;
        while (to < count && chosen[to] < part->end) to++;
        attend(m, s, offset, part, chosen + from, to - from, s->mixed + from * query_size);
        from = to;
    }
    take_inputs(s, s->mixed, query_size, &layer->output, count);
    add_products(&layer->output, &s->inputs, count, hidden, stride);
    take_normed(s, hidden, layer->mlp_norm, &layer->gate_up, count, m->eps);
    gate_products(&layer->gate_up, &s->inputs, count, s->wide, s->wide_stride);
    take_inputs(s, s->wide, s->wide_stride, &layer->down, count);
    add_products(&layer->down, &s->inputs, count, hidden, stride);
}
