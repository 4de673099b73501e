/* What the caller passes in. library.py mirrors these structures, and compares its mirror with
 * rfprm_layout when it loads the library. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define INTERFACE_VERSION 7 /* of the functions; a changed structure shows in the layout */
#define PANEL 64 /* output columns of a panel of weights; rows have room for whole panels */

typedef struct {
    int64_t depth;           /* inputs */
    int64_t width;           /* outputs; of integers padded to whole panels */
    int64_t bits;            /* of weights and inputs: 16 or 8, or 32 for float32 */
    const int32_t *panels;   /* 16 bits: [width / 64][depth / 2][64][2], 8 bits: [width / 64]
                              * [depth / 4][64][4]; either way 32 bits of a column together.
                              * float32 has no panels: [depth][width], all gates before all ups */
    const float *scales;     /* [width], the size of a unit of the weights */
    const float *bias;       /* [width] or NULL */
    const int32_t *sums;     /* [width], sums of a column's weights, with 8 bits only */
    double activation_limit; /* L2 norm that quantised inputs may have, so that sums fit 32 bits */
} Linear;

typedef struct {
    Linear qkv, output, gate_up, down; /* a panel of gate_up: 32 gate columns, then their 32 up */
    const float *attention_norm, *mlp_norm;
    const float *query_norm, *key_norm; /* [head_dim] or NULL */
} Layer;

typedef struct {
    int64_t num_layers, hidden, num_heads, num_kv_heads, head_dim, inner;
    int64_t num_labels, head_inner; /* head_inner: 0 for a linear head */
    float eps;
    const void *embedding;        /* [vocab][hidden], int16 or float32 */
    const float *embedding_scale; /* [vocab], of int16 */
    const float *cos, *sin;       /* [positions][head_dim / 2] */
    const float *final_norm;
    const float *head_weight, *head_bias;   /* [head_inner or num_labels][hidden], bias or NULL */
    const float *head_weight2, *head_bias2; /* [num_labels][head_inner] */
    const Layer *layers;
} Model;

typedef struct {
    int64_t num_tokens, start; /* tokens to run; how many come before them */
    char *const *pages;        /* of 64 positions each, from position 0 on */
} Segment;

/* Offset and size of each field, and the size of each structure under its own name. */
typedef struct {
    const char *name;
    int64_t offset, size;
} Place;

#define WHOLE(type) {#type, 0, sizeof(type)}
#define FIELD(type, field) {#type "." #field, offsetof(type, field), sizeof(((type *)0)->field)}
static const Place LAYOUT[] = {
    WHOLE(Linear),
    FIELD(Linear, depth),
    FIELD(Linear, width),
    FIELD(Linear, bits),
    FIELD(Linear, panels),
    FIELD(Linear, scales),
    FIELD(Linear, bias),
    FIELD(Linear, sums),
    FIELD(Linear, activation_limit),
    WHOLE(Layer),
    FIELD(Layer, qkv),
    FIELD(Layer, output),
    FIELD(Layer, gate_up),
    FIELD(Layer, down),
    FIELD(Layer, attention_norm),
    FIELD(Layer, mlp_norm),
    FIELD(Layer, query_norm),
    FIELD(Layer, key_norm),
    WHOLE(Model),
    FIELD(Model, num_layers),
    FIELD(Model, hidden),
    FIELD(Model, num_heads),
    FIELD(Model, num_kv_heads),
    FIELD(Model, head_dim),
    FIELD(Model, inner),
    FIELD(Model, num_labels),
    FIELD(Model, head_inner),
    FIELD(Model, eps),
    FIELD(Model, embedding),
    FIELD(Model, embedding_scale),
    FIELD(Model, cos),
    FIELD(Model, sin),
    FIELD(Model, final_norm),
    FIELD(Model, head_weight),
    FIELD(Model, head_bias),
    FIELD(Model, head_weight2),
    FIELD(Model, head_bias2),
    FIELD(Model, layers),
    WHOLE(Segment),
    FIELD(Segment, num_tokens),
    FIELD(Segment, start),
    FIELD(Segment, pages),
    {NULL, 0, 0},
};
#undef WHOLE
#undef FIELD
