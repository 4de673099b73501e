/* Runs compiled kernels on small random models and prints the bits of their logits, to compare a
 * processor without Python with one that has it:
 *
 *   cc -I rfprm_runtime/backends/native scripts/kernels_check.c -o check -ldl -lm
 *   ./check kernels-generic.so
 *   ./check kernels-generic.so quick      without the longest pass
 *   ./check kernels-generic.so shipped    two layers of the shipped PRM's shape, to count instructions
 *
 * All numbers of a model come from integers and exact divisions, so they are the same everywhere. */

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "structures.h"

enum { VOCAB = 50, POSITIONS = 700, LABELS = 2, LAYERS = 2 };

typedef struct {
    const char *name;
    int64_t bits, largest; /* weight */
    int64_t hidden, num_heads, num_kv_heads, head_dim, inner;
    int has_bias, has_qk_norm, has_deep_head;
} Shape;

static const Shape SHAPES[] = {
    {"16 bits", 16, 2047, 48, 4, 2, 16, 96, 0, 0, 0},
    {"8 bits, biases", 8, 127, 64, 3, 1, 32, 64, 1, 0, 1},
    {"16 bits, norms of queries and keys", 16, 2047, 80, 2, 1, 80, 160, 0, 1, 1},
    {"the largest weights", 16, 32767, 112, 1, 1, 48, 32, 0, 0, 0},
};

static const Shape SHIPPED = {"the shipped PRM's shape", 16, 2047, 576, 9, 3, 64, 1536, 0, 0, 0};

/* Tokens of a pass: with and without blocks of rows, and with rests that a block can leave. */
static const int64_t PIECES[] = {1, 3, 7, 8, 9, 11, 13, 15, 16, 18, 550};

static uint64_t state = 1;

static int64_t random_int(int64_t most) { /* from -most to most */
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((state >> 33) % (uint64_t)(2 * most + 1)) - most;
}

static void *allocate(int64_t bytes) {
    void *memory = aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64));
    if (!memory) exit(2);
    return memset(memory, 0, (size_t)bytes);
}

/* Random numbers between `center` - 1 and `center` + 1, times `scale`. */
static float *random_floats(int64_t count, float center, float scale) {
    float *floats = allocate(count * 4);
    for (int64_t i = 0; i < count; i++)
        floats[i] = (center + (float)random_int(1 << 20) / (1 << 20)) * scale;
    return floats;
}

static Linear random_linear(const Shape *shape, int64_t depth, int64_t outputs) {
    int64_t width = (outputs + PANEL - 1) / PANEL * PANEL, together = 32 / shape->bits;
    int64_t steps = depth / together, most = shape->largest;
    int32_t *panels = allocate(width * steps * 4), *sums = allocate(width * 4);
    double longest = 1;
    for (int64_t column = 0; column < width; column++) {
        double squares = 0;
        for (int64_t i = 0; i < depth; i++) {
            int64_t word = (column / PANEL * steps + i / together) * PANEL + column % PANEL;
            int64_t weight = column < outputs ? random_int(most) : 0;
            if (shape->bits == 8) ((int8_t *)(panels + word))[i % 4] = (int8_t)weight;
            else ((int16_t *)(panels + word))[i % 2] = (int16_t)weight;
            sums[column] += (int32_t)weight;
            squares += (double)(weight * weight);
        }
        if (squares > longest) longest = squares;
    }
    return (Linear){
        .depth = depth,
        .width = width,
        .bits = shape->bits,
        .panels = panels,
        .scales = random_floats(width, 2, 0.125f / (float)most),
        .bias = shape->has_bias ? random_floats(width, 0, 0.25f) : NULL,
        .sums = sums,
        .activation_limit = 2146435072.0 / sqrt(longest) - 0.5 * sqrt((double)depth),
    };
}

static Model *random_model(const Shape *shape) {
    int64_t queries = shape->num_heads * shape->head_dim;
    int64_t keys = shape->num_kv_heads * shape->head_dim, hidden = shape->hidden;
    Layer *layers = allocate(LAYERS * (int64_t)sizeof(Layer));
    for (int i = 0; i < LAYERS; i++)
        layers[i] = (Layer){
            .qkv = random_linear(shape, hidden, queries + 2 * keys),
            .output = random_linear(shape, queries, hidden),
            .gate_up = random_linear(shape, hidden, 2 * shape->inner),
            .down = random_linear(shape, shape->inner, hidden),
            .attention_norm = random_floats(hidden, 1, 1),
            .mlp_norm = random_floats(hidden, 1, 1),
            .query_norm = shape->has_qk_norm ? random_floats(shape->head_dim, 1, 1) : NULL,
            .key_norm = shape->has_qk_norm ? random_floats(shape->head_dim, 1, 1) : NULL,
        };
    int16_t *embedding = allocate(VOCAB * hidden * 2);
    for (int64_t i = 0; i < VOCAB * hidden; i++) embedding[i] = (int16_t)random_int(32767);
    int64_t inner = shape->has_deep_head ? hidden : 0, outputs = inner ? inner : LABELS;
    Model *model = allocate(sizeof(Model));
    *model = (Model){
        .num_layers = LAYERS,
        .hidden = hidden,
        .num_heads = shape->num_heads,
        .num_kv_heads = shape->num_kv_heads,
        .head_dim = shape->head_dim,
        .inner = shape->inner,
        .num_labels = LABELS,
        .head_inner = inner,
        .eps = 1e-5f,
        .embedding = embedding,
        .embedding_scale = random_floats(VOCAB, 2, 1.0f / 65536),
        .cos = random_floats(POSITIONS * shape->head_dim / 2, 0, 1),
        .sin = random_floats(POSITIONS * shape->head_dim / 2, 0, 1),
        .final_norm = random_floats(hidden, 1, 1),
        .head_weight = random_floats(outputs * hidden, 0, 0.25f),
        .head_bias = random_floats(outputs, 0, 1),
        .head_weight2 = inner ? random_floats(LABELS * inner, 0, 0.25f) : NULL,
        .head_bias2 = inner ? random_floats(LABELS, 0, 1) : NULL,
        .layers = layers,
    };
    return model;
}

static int64_t (*page_bytes)(const Model *);
static int64_t (*scratch_bytes)(const Model *, int64_t);
static void (*run)(const Model *, const int64_t *, const Segment *, int64_t, int64_t,
                   const int64_t *, int64_t, float *, const float *, float *, void *, void *);

/* Runs `count` tokens after the first `start`, with a marker at each, and prints the bits of their
 * logits. Keys and values stay in the pages. */
static void extend(const Model *model, const int64_t *ids, char **pages, int64_t start,
                   int64_t count) {
    Segment segment = {count, start, pages};
    int64_t *markers = allocate(count * 8);
    float *logits = allocate(count * LABELS * 4);
    for (int64_t i = 0; i < count; i++) markers[i] = i;
    run(model, ids + start, &segment, 1, 1, markers, count, logits, NULL, NULL,
        allocate(scratch_bytes(model, count)), NULL);
    for (int64_t i = 0; i < count * LABELS; i++) {
        uint32_t bits;
        memcpy(&bits, logits + i, 4);
        printf("%08x%s", bits, i % 8 == 7 ? "\n" : " ");
        if (!isfinite(logits[i])) exit(3);
    }
    printf("\n");
}

static void check(const Shape *shape, const int64_t *pieces, size_t num_pieces) {
    printf("%s\n", shape->name);
    Model *model = random_model(shape);
    int64_t ids[POSITIONS], start = 0;
    for (int p = 0; p < POSITIONS; p++) ids[p] = (random_int(VOCAB) + VOCAB) % VOCAB;
    char *pages[POSITIONS / 64 + 1];
    for (int p = 0; p <= POSITIONS / 64; p++) pages[p] = allocate(LAYERS * page_bytes(model));
    for (size_t piece = 0; piece < num_pieces; start += pieces[piece++])
        extend(model, ids, pages, start, pieces[piece]);
}

int main(int count, char **arguments) {
    void *library = count > 1 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (!library) {
        fprintf(stderr, "expected the path of a kernel library: %s\n", count > 1 ? dlerror() : "");
        return 1;
    }
    int64_t (*version)(void) = (int64_t (*)(void))dlsym(library, "rfprm_interface_version");
    if (!version || version() != INTERFACE_VERSION) {
        fprintf(stderr, "%s has another interface than structures.h\n", arguments[1]);
        return 1;
    }
    page_bytes = (int64_t (*)(const Model *))dlsym(library, "rfprm_page_bytes");
    scratch_bytes = (int64_t (*)(const Model *, int64_t))dlsym(library, "rfprm_scratch_bytes");
    *(void **)&run = dlsym(library, "rfprm_run");
    const char *what = count > 2 ? arguments[2] : "";
    if (!strcmp(what, "shipped")) {
        check(&SHIPPED, (const int64_t[]){201}, 1);
        return 0;
    }
    size_t num_pieces = sizeof PIECES / sizeof *PIECES - !strcmp(what, "quick");
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        check(SHAPES + i, PIECES, num_pieces);
    return 0;
}
