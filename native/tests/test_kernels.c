/* Runs every kernel of every instruction set that this CPU has, on buffers that end exactly
 * where the data ends and start at odd addresses, and compares with the reference.
 * Meant to be built with sanitizers (cmake -DGGS_SANITIZE=ON -DGGS_TESTS=ON). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggs.h"

static const int types[] = {GGS_F32, GGS_F16, GGS_BF16};
static const char *const isas[] = {"ref", "avx2", "avx512", "neon"};
static int failures, checks;

#define CHECK(condition, ...)                                      \
    do {                                                           \
        checks++;                                                  \
        if (!(condition)) {                                        \
            failures++;                                            \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__);                                   \
            printf("\n");                                          \
        }                                                          \
    } while (0)

static size_t size_of(int type) { return type == GGS_F32 ? 4 : 2; }

static uint32_t state = 12345;
static uint32_t random_u32(void) { /* xorshift */
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

/* n bytes that start at an odd address and end with their allocation */
static unsigned char *odd(size_t n) {
    unsigned char *p = malloc(n + 1);
    if (!p) {
        exit(2);
    }
    memset(p, 0, n + 1);
    return p + 1;
}
static void release(void *p) { free((unsigned char *)p - 1); }

static void fill(unsigned char *p, size_t n) { /* any bits: NaN, infinity, subnormals too */
    for (size_t i = 0; i < n; i++) {
        p[i] = (unsigned char)(random_u32() >> 11);
    }
}

/* the results of every operation on the same data */
typedef struct {
    unsigned char *decoded, *encoded, *linear, *mask, *counts;
    size_t size, table;
    double sums[3];
    uint64_t count, below;
} results;

static const float weights[6] = {-1.0f, 0.5f, 1.0f, 0.3f, 2.0f, -0.7f};
enum { SOURCES = 6 };

static results run(int type, size_t n, size_t n_src, const void *const *src, uint32_t lo,
                   uint32_t hi) {
    results r = {.size = n * size_of(type), .table = ((hi - lo - 1) >> 3) + 1};
    r.decoded = odd(4 * n), r.encoded = odd(r.size), r.linear = odd(r.size), r.mask = odd(r.size);
    r.counts = odd(4 * r.table);
    CHECK(ggs_decode(type, (void *)r.decoded, src[0], n) == GGS_OK, "type %d", type);
    CHECK(ggs_encode(type, r.encoded, (void *)r.decoded, n) == GGS_OK, "type %d", type);
    CHECK(ggs_linear(type, r.linear, src, weights, n_src, n) == GGS_OK, "type %d", type);
    CHECK(ggs_mask(type, r.mask, src[0], lo, hi, n) == GGS_OK, "type %d", type);
    CHECK(ggs_count(type, src[0], lo, hi, n, &r.count) == GGS_OK, "type %d", type);
    uint32_t *counts = calloc(r.table, 4);
    CHECK(ggs_histogram(type, src[0], lo, hi, 3, n, counts, &r.below) == GGS_OK, "%d", type);
    memcpy(r.counts, counts, 4 * r.table);
    free(counts);
    float *finite = calloc(n + 1, 4);
    unsigned char *numbers = odd(r.size);
    for (size_t i = 0; i < n; i++) {
        finite[i] = (float)((int)(i % 97) - 48) / 8;
    }
    ggs_encode(type, numbers, finite, n);
    CHECK(ggs_moments(type, numbers, numbers, n, r.sums) == GGS_OK, "type %d", type);
    release(numbers);
    free(finite);
    return r;
}

static void compare(const char *isa, int type, size_t n, size_t n_src) {
    unsigned char *data[SOURCES];
    const void *src[SOURCES];
    for (size_t k = 0; k < n_src; k++) {
        data[k] = odd(n * size_of(type));
        fill(data[k], n * size_of(type));
        src[k] = data[k];
    }
    const uint32_t lo = type == GGS_F32 ? 0x3F000000u : 0x3000u;
    const uint32_t hi = type == GGS_F32 ? 0x3F010000u : 0x4001u;
    ggs_select_isa("ref");
    const results want = run(type, n, n_src, src, lo, hi);
    ggs_select_isa(isa);
    const results got = run(type, n, n_src, src, lo, hi);
    CHECK(memcmp(want.decoded, got.decoded, 4 * n) == 0, "%s, type %d, n %zu", isa, type, n);
    CHECK(memcmp(want.encoded, got.encoded, want.size) == 0, "%s, type %d, n %zu", isa, type, n);
    CHECK(memcmp(want.mask, got.mask, want.size) == 0, "%s, type %d, n %zu", isa, type, n);
    CHECK(memcmp(want.counts, got.counts, 4 * want.table) == 0, "%s, %d, n %zu", isa, type, n);
    CHECK(want.count == got.count && want.below == got.below, "%s, type %d, n %zu", isa, type, n);
    for (int k = 0; k < 3; k++) {
        const double bound = (double)n * 0x1p-53 * want.sums[1];
        CHECK(fabs(want.sums[k] - got.sums[k]) <= bound, "%s, type %d, n %zu", isa, type, n);
    }
    ggs_linear(type, data[0], src, weights, n_src, n); /* in place */
    CHECK(memcmp(data[0], got.linear, got.size) == 0, "%s, type %d, n %zu in place", isa, type, n);
    /* of two NaN added, either may give its payload: compare the numbers */
    float *a = calloc(n + 1, 4), *b = calloc(n + 1, 4);
    ggs_decode(type, a, want.linear, n), ggs_decode(type, b, got.linear, n);
    for (size_t i = 0; i < n; i++) {
        CHECK(memcmp(a + i, b + i, 4) == 0 || (isnan(a[i]) && isnan(b[i])), "%s, %d", isa, type);
    }
    free(a), free(b);
    for (size_t k = 0; k < n_src; k++) {
        release(data[k]);
    }
    const results *both[2] = {&want, &got};
    for (int k = 0; k < 2; k++) {
        release(both[k]->decoded), release(both[k]->encoded), release(both[k]->linear);
        release(both[k]->mask), release(both[k]->counts);
    }
}

static void refuses(void) {
    float x = 1;
    uint32_t counts[1] = {0};
    uint64_t n;
    const void *const one[1] = {&x}, *const none[1] = {NULL};
    CHECK(ggs_decode(2, &x, &x, 1) == GGS_BAD_TYPE, "Q4_0 is none of ours");
    CHECK(ggs_decode(GGS_F32, NULL, &x, 1) == GGS_BAD_ARGUMENT, "null");
    CHECK(ggs_encode(GGS_F16, NULL, &x, 1) == GGS_BAD_ARGUMENT, "null");
    CHECK(ggs_linear(GGS_F32, &x, one, &x, 0, 1) == GGS_BAD_ARGUMENT, "no source");
    CHECK(ggs_linear(GGS_F32, &x, none, &x, 1, 1) == GGS_BAD_ARGUMENT, "null source");
    CHECK(ggs_mask(GGS_F16, &x, &x, 5, 4, 1) == GGS_BAD_ARGUMENT, "backwards");
    CHECK(ggs_count(GGS_F16, &x, 0, 0x8000, 1, &n) == GGS_BAD_ARGUMENT, "beyond all keys");
    CHECK(ggs_histogram(GGS_F32, &x, 1, 1, 0, 1, counts, &n) == GGS_BAD_ARGUMENT, "empty range");
    CHECK(ggs_histogram(GGS_F32, &x, 0, 1, 32, 1, counts, &n) == GGS_BAD_ARGUMENT, "shift");
    CHECK(ggs_moments(GGS_F32, NULL, &x, 1, NULL) == GGS_BAD_ARGUMENT, "null");
    CHECK(ggs_select_isa("mmx") == GGS_BAD_ISA, "unknown");
}

int main(void) {
    static const size_t sizes[] = {0,  1,  2,  3,  7,  8,  9,  15, 16, 17,
                                   31, 32, 33, 47, 63, 64, 65, 97, 1000, 33000};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        if (ggs_select_isa(isas[i]) != GGS_OK) {
            printf("%s: not on this CPU\n", isas[i]);
            continue;
        }
        printf("%s\n", ggs_isa());
        for (int t = 0; t < 3; t++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                compare(isas[i], types[t], sizes[s], 1 + s % SOURCES);
            }
        }
    }
    refuses();
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
