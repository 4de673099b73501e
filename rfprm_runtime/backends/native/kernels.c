/* A Llama-style decoder on a CPU: linears, attention over paged keys and values, logits at marker
 * rows. Linears, keys and values are in integers of 16 or 8 bits or in float32, as compiled;
 * everything between is float32.
 *
 * Every number that belongs to a token is computed from that token's row and from the keys and
 * values before it, in an order that depends only on its position: linears add whole integers
 * (exact in any order) or floats from the first input to the last, attention walks pages of 64
 * positions. So the bits of a score do not depend on what shares the batch, where a prefix was
 * split, or how many threads ran.
 *
 * Plain C with GCC/Clang vector extensions, compiled as one unit, once for each row of variants.py
 * and kind of numbers. What differs between processors is in isa_*.h, between kinds in
 * numbers_*.h. What all of this assumes about sizes and numbers is in limits.py, which the caller
 * checks when it loads a model. From the outside in:
 *
 *   kernels.c      the interface, and the walk through the layers
 *   network.h      the steps of a layer, the embedding, the head
 *   numbers.h      the kind of numbers, with linear*.h, inputs times weights, and attention*.h,
 *                  queries times a page of keys and values
 *   weights.h      what a caller asks about weights of integers before they run
 *   rows.h         one row at a time: to integers, normalised, rotated
 *   scratch.h      the memory of a run;  threads.h: how threads wait for each other
 *   structures.h   what the caller hands over
 *   isa.h          the instruction set;  vectors.h, exponentials.h: what all sets share
 */

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "network.h"
#include "numbers.h"
#include "scratch.h"
#include "structures.h"
#include "threads.h"

int64_t rfprm_interface_version(void) { return INTERFACE_VERSION; }

const Place *rfprm_layout(void) { return LAYOUT; }

int64_t rfprm_page_positions(void) { return PAGE; }

/* Bytes of the keys and values of one page in one layer. */
int64_t rfprm_page_bytes(const Model *m) { return layer_bytes(m); }

int64_t rfprm_scratch_bytes(const Model *m, int64_t num_tokens) {
    Scratch s;
    return lay_out(m, num_tokens, 0, &s);
}

/* What a caller has to know of a linear before it may run: see the kind of numbers. */
int64_t rfprm_examine(const Linear *linear) { return examine(linear); }

/* Runs the tokens of each segment after the past that its pages hold; writes their keys and values
 * to the pages, and logits [num_markers][num_labels].
 *
 * `ids` and `markers` (ascending) run through all segments. With `keep_layers` a page has room for
 * every layer and can serve as a past; without it all layers share the room of one, and every
 * start is 0. `done` is NULL, or one counter per layer of the positions whose keys are in place.
 * Threads that run neighbouring stretches of one trace, a segment each, share it; each follows a
 * layer behind the one before it.
 *
 * A model can be run in pieces of some layers: `before` is NULL, or the rows [num_tokens][hidden]
 * that the layers before these left, in place of the embedding of `ids`; `after` is NULL, or where
 * to leave the rows, in place of logits. They may be the same memory. */
void rfprm_run(const Model *m, const int64_t *ids, const Segment *segments, int64_t num_segments,
               int64_t keep_layers, const int64_t *markers, int64_t num_markers, float *logits,
               const float *before, float *after, void *scratch, _Atomic int64_t *done) {
    Scratch s;
    int64_t all[MAX_ROWS], local[MAX_ROWS], num_tokens = 0;
    Part parts[MAX_ROWS];
    for (int64_t i = 0; i < num_segments; i++) num_tokens += segments[i].num_tokens;
    lay_out(m, num_tokens, scratch, &s);
    if (before) take_rows(m, &s, before, num_tokens);
    else embed(m, &s, ids, num_tokens);
    for (int64_t i = 0; i < MAX_ROWS; i++) all[i] = i;
    for (int64_t index = 0; index < m->num_layers; index++) {
        const Layer *layer = m->layers + index;
        int64_t offset = keep_layers ? index * layer_bytes(m) : 0, seen = 0;
        for (int64_t first = 0; first < num_tokens; first += MAX_ROWS) {
            int64_t rows = num_tokens - first < MAX_ROWS ? num_tokens - first : MAX_ROWS;
            int64_t num_parts = find_parts(segments, first, rows, parts);
            float *hidden = s.hidden + first * s.hidden_stride;
            take_normed(&s, hidden, layer->attention_norm, &layer->qkv, rows, m->eps);
            store_products(&layer->qkv, &s.inputs, rows, s.wide, s.wide_stride);
            for (int64_t i = 0; i < num_parts; i++) place_keys(m, layer, &s, offset, parts + i);
            if (done) {
                int64_t position = segments->start + first;
                wait_for(done + index, segments->start);
                atomic_store_explicit(done + index, position + rows, memory_order_release);
            }
            if (after || index < m->num_layers - 1) {
                finish_layer(m, layer, &s, hidden, offset, parts, num_parts, all, rows);
                continue;
            }
            int64_t here = 0; /* after the last layer's keys only marker rows are read */
            for (; seen < num_markers && markers[seen] < first + rows; here++, seen++) {
                local[here] = markers[seen] - first;
                memmove(hidden + here * s.hidden_stride, hidden + local[here] * s.hidden_stride,
                        (size_t)s.hidden_stride * sizeof(float));
            }
            finish_layer(m, layer, &s, hidden, offset, parts, num_parts, local, here);
            for (int64_t i = 0; i < here; i++, logits += m->num_labels)
                read_head(m, &s, hidden + i * s.hidden_stride, logits);
        }
    }
    if (after) leave_rows(m, &s, after, num_tokens);
}
