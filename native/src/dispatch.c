/* The public functions: check the arguments, then call the kernel of the chosen
 * instruction set. */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

typedef struct {
    const char *name;
    ggs_decode_fn *decode[GGS_SLOTS];
    ggs_encode_fn *encode[GGS_SLOTS];
    ggs_linear_fn *linear[GGS_SLOTS];
    ggs_mask_fn *mask[GGS_SLOTS];
    ggs_count_fn *count[GGS_SLOTS];
    ggs_moments_fn *moments[GGS_SLOTS];
    ggs_histogram_fn *histogram[GGS_SLOTS];
} ggs_table;

#define ROW(op, isa) {ggs_##op##_f32_##isa, ggs_##op##_f16_##isa, ggs_##op##_bf16_##isa}
#define TABLE(isa)                                                                       \
    {#isa, ROW(decode, isa), ROW(encode, isa), ROW(linear, isa), ROW(mask, isa),         \
     ROW(count, isa), ROW(moments, isa), ROW(histogram, isa)}

/* best first */
static const ggs_table tables[] = {
#if defined(GGS_X86)
    TABLE(avx512), TABLE(avx2),
#elif defined(GGS_ARM64)
    TABLE(neon),
#endif
    TABLE(ref)};

enum { N_TABLES = sizeof tables / sizeof tables[0] };

static const ggs_table *chosen; /* NULL until the first call */

static int cpu_has(const char *isa) {
#if defined(GGS_X86)
    unsigned a, b, c, d;
    const int f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
    __builtin_cpu_init();
    if (strcmp(isa, "avx2") == 0) {
        return f16c && __builtin_cpu_supports("avx2");
    }
    if (strcmp(isa, "avx512") == 0) {
        return f16c && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    }
#endif
    (void)isa; /* ref runs anywhere, and every AArch64 has NEON */
    return 1;
}

static const ggs_table *find(const char *name) {
    for (int i = 0; i < N_TABLES; i++) {
        const int wanted = !name || !*name || strcmp(name, tables[i].name) == 0;
        if (wanted && cpu_has(tables[i].name)) {
            return &tables[i];
        }
    }
    return NULL;
}

/* Two threads that get here first together find and store the same address. */
static const ggs_table *table(void) {
    const ggs_table *t = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (!t) {
        t = find(getenv("GGSURGERY_ISA"));
        __atomic_store_n(&chosen, t, __ATOMIC_RELAXED);
    }
    return t;
}

static int slot(int type) {
    switch (type) {
        case GGS_F32: return GGS_SLOT_F32;
        case GGS_F16: return GGS_SLOT_F16;
        case GGS_BF16: return GGS_SLOT_BF16;
        default: return -1;
    }
}

static int bad_range(int type, uint32_t lo, uint32_t hi) {
    return lo > hi || hi > (type == GGS_F32 ? 0x7FFFFFFFu : 0x7FFFu);
}

int ggs_abi(void) { return GGS_ABI; }

const char *ggs_isa(void) { return table() ? table()->name : NULL; }

ggs_status ggs_select_isa(const char *name) {
    const ggs_table *t = find(name);
    if (!t) {
        return GGS_BAD_ISA;
    }
    __atomic_store_n(&chosen, t, __ATOMIC_RELAXED);
    return GGS_OK;
}

#define CHECK(arguments_are_bad)       \
    const int s = slot(type);          \
    if (s < 0) {                       \
        return GGS_BAD_TYPE;           \
    }                                  \
    if (!table()) {                    \
        return GGS_BAD_ISA;            \
    }                                  \
    if (arguments_are_bad) {           \
        return GGS_BAD_ARGUMENT;       \
    }

ggs_status ggs_decode(int type, float *dst, const void *src, size_t n) {
    CHECK(n && (!dst || !src))
    table()->decode[s](dst, src, n);
    return GGS_OK;
}

ggs_status ggs_encode(int type, void *dst, const float *src, size_t n) {
    CHECK(n && (!dst || !src))
    table()->encode[s](dst, src, n);
    return GGS_OK;
}

ggs_status ggs_linear(int type, void *dst, const void *const *src, const float *weights,
                      size_t n_src, size_t n) {
    CHECK(!src || !weights || !n_src || (n && !dst))
    for (size_t k = 0; k < n_src; k++) {
        if (n && !src[k]) {
            return GGS_BAD_ARGUMENT;
        }
    }
    table()->linear[s](dst, src, weights, n_src, n);
    return GGS_OK;
}

ggs_status ggs_mask(int type, void *dst, const void *src, uint32_t lo, uint32_t hi, size_t n) {
    CHECK((n && (!dst || !src)) || bad_range(type, lo, hi))
    table()->mask[s](dst, src, lo, hi, n);
    return GGS_OK;
}

ggs_status ggs_count(int type, const void *src, uint32_t lo, uint32_t hi, size_t n,
                     uint64_t *count) {
    CHECK((n && !src) || !count || bad_range(type, lo, hi))
    *count = table()->count[s](src, lo, hi, n);
    return GGS_OK;
}

ggs_status ggs_moments(int type, const void *a, const void *b, size_t n, double sums[3]) {
    CHECK((n && (!a || !b)) || !sums)
    table()->moments[s](a, b, n, sums);
    return GGS_OK;
}

ggs_status ggs_histogram(int type, const void *src, uint32_t lo, uint32_t hi, int shift, size_t n,
                         uint32_t *counts, uint64_t *below) {
    CHECK((n && !src) || !counts || !below || n > UINT32_MAX || shift < 0 || shift > 31 ||
          bad_range(type, lo, hi) || lo == hi)
    *below = table()->histogram[s](src, lo, hi, shift, n, counts);
    return GGS_OK;
}
