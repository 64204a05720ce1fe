/* What the files of this library share: the table of one instruction set. */
#ifndef GGS_KERNELS_H
#define GGS_KERNELS_H

#include "ggs.h"

enum { GGS_SLOT_F32, GGS_SLOT_F16, GGS_SLOT_BF16, GGS_SLOTS };

typedef void ggs_decode_fn(float *dst, const void *src, size_t n);
typedef void ggs_encode_fn(void *dst, const float *src, size_t n);
typedef void ggs_linear_fn(void *dst, const void *const *src, const float *weights, size_t n_src,
                           size_t n);
typedef void ggs_mask_fn(void *dst, const void *src, uint32_t lo, uint32_t hi, size_t n);
typedef uint64_t ggs_count_fn(const void *src, uint32_t lo, uint32_t hi, size_t n);
typedef void ggs_moments_fn(const void *a, const void *b, size_t n, double sums[3]);
typedef uint64_t ggs_histogram_fn(const void *src, uint32_t lo, uint32_t hi, int shift, size_t n,
                                  uint32_t *counts);

/* The functions of one instruction set are called ggs_<op>_<type>_<isa>. */
#define GGS_DECLARE_OPS(type, isa)                \
    ggs_decode_fn ggs_decode_##type##_##isa;      \
    ggs_encode_fn ggs_encode_##type##_##isa;      \
    ggs_linear_fn ggs_linear_##type##_##isa;      \
    ggs_mask_fn ggs_mask_##type##_##isa;          \
    ggs_count_fn ggs_count_##type##_##isa;        \
    ggs_moments_fn ggs_moments_##type##_##isa;    \
    ggs_histogram_fn ggs_histogram_##type##_##isa;

#define GGS_DECLARE(isa)         \
    GGS_DECLARE_OPS(f32, isa)    \
    GGS_DECLARE_OPS(f16, isa)    \
    GGS_DECLARE_OPS(bf16, isa)

GGS_DECLARE(ref)
GGS_DECLARE(avx2)
GGS_DECLARE(avx512)
GGS_DECLARE(neon)

#endif
