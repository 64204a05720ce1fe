/* AVX2 + F16C: eight numbers a vector. */
#ifndef GGS_SIMD_H
#define GGS_SIMD_H

#include <immintrin.h>

#include "scalar.h"

#define ISA avx2
#define LANES 8

typedef __m256 vf;
typedef struct {
    __m256d lo, hi;
} vd;

static inline vf load_f32(const void *p, size_t i) { return _mm256_loadu_ps((const float *)p + i); }
static inline void store_f32(void *p, size_t i, vf v) { _mm256_storeu_ps((float *)p + i, v); }

static inline vf load_f16(const void *p, size_t i) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const char *)p + 2 * i)));
}
static inline void store_f16(void *p, size_t i, vf v) {
    const __m128i h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)((char *)p + 2 * i), h);
}

static inline vf load_bf16(const void *p, size_t i) {
    const __m128i h = _mm_loadu_si128((const __m128i *)((const char *)p + 2 * i));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline void store_bf16(void *p, size_t i, vf v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(64));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i wide = _mm256_blendv_epi8(rounded, quiet, nan);
    /* the pack works within halves: gather the two filled quarters */
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(wide, wide), 0x08);
    _mm_storeu_si128((__m128i *)((char *)p + 2 * i), _mm256_castsi256_si128(packed));
}

static inline vf v_set(float x) { return _mm256_set1_ps(x); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }

static inline vd d_zero(void) {
    const vd zero = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    return zero;
}
static inline vd d_add_products(vd sum, vf a, vf b) {
    const __m256d a_lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
    const __m256d b_lo = _mm256_cvtps_pd(_mm256_castps256_ps128(b));
    const __m256d a_hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    const __m256d b_hi = _mm256_cvtps_pd(_mm256_extractf128_ps(b, 1));
    sum.lo = _mm256_add_pd(sum.lo, _mm256_mul_pd(a_lo, b_lo));
    sum.hi = _mm256_add_pd(sum.hi, _mm256_mul_pd(a_hi, b_hi));
    return sum;
}
static inline double d_sum(vd v) {
    double parts[4];
    _mm256_storeu_pd(parts, _mm256_add_pd(v.lo, v.hi));
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

/* scan_*: bits of the keys in [lo, lo + span) of a group, and *below += those under lo.
 * Keys and bounds are below 2^31 (2^15), so the signed comparisons of AVX2 order them. */
#define GROUP_U32 8
#define GROUP_U16 16
static inline uint64_t scan_u32(const void *p, size_t i, uint32_t lo, uint32_t span,
                                uint64_t *below) {
    const __m256i bits = _mm256_loadu_si256((const __m256i *)((const char *)p + 4 * i));
    const __m256i key = _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i under = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)lo), key);
    const __m256i inner = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(lo + span)), key);
    const unsigned low = (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(under));
    *below += (uint64_t)__builtin_popcount(low);
    return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(inner)) & ~low;
}
static inline uint64_t scan_u16(const void *p, size_t i, uint16_t lo, uint16_t span,
                                uint64_t *below) {
    const __m256i bits = _mm256_loadu_si256((const __m256i *)((const char *)p + 2 * i));
    const __m256i key = _mm256_and_si256(bits, _mm256_set1_epi16(0x7FFF));
    const __m256i under = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)lo), key);
    const __m256i inner = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)(lo + span)), key);
    /* one byte a number: the first operand's halves fill the even quarters */
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi16(under, inner), 0xD8);
    const unsigned mask = (unsigned)_mm256_movemask_epi8(both), low = mask & 0xFFFFu;
    *below += (uint64_t)__builtin_popcount(low);
    return mask >> 16 & ~low;
}

#endif
