/* AVX-512 (F, BW, VL, DQ): sixteen numbers a vector. */
#ifndef GGS_SIMD_H
#define GGS_SIMD_H

#include <immintrin.h>

#include "scalar.h"

#define ISA avx512
#define LANES 16

typedef __m512 vf;
typedef struct {
    __m512d lo, hi;
} vd;

static inline vf load_f32(const void *p, size_t i) { return _mm512_loadu_ps((const float *)p + i); }
static inline void store_f32(void *p, size_t i, vf v) { _mm512_storeu_ps((float *)p + i, v); }

static inline vf load_f16(const void *p, size_t i) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const char *)p + 2 * i)));
}
static inline void store_f16(void *p, size_t i, vf v) {
    const __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)((char *)p + 2 * i), h);
}

static inline vf load_bf16(const void *p, size_t i) {
    const __m256i h = _mm256_loadu_si256((const __m256i *)((const char *)p + 2 * i));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
static inline void store_bf16(void *p, size_t i, vf v) {
    /* not vcvtneps2bf16: that instruction takes subnormal numbers for zero */
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, half), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i wide = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(64));
    _mm256_storeu_si256((__m256i *)((char *)p + 2 * i), _mm512_cvtepi32_epi16(wide));
}

static inline vf v_set(float x) { return _mm512_set1_ps(x); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }

static inline vd d_zero(void) {
    const vd zero = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    return zero;
}
static inline vd d_add_products(vd sum, vf a, vf b) {
    const __m512d a_lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
    const __m512d b_lo = _mm512_cvtps_pd(_mm512_castps512_ps256(b));
    const __m512d a_hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    const __m512d b_hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(b, 1));
    sum.lo = _mm512_add_pd(sum.lo, _mm512_mul_pd(a_lo, b_lo));
    sum.hi = _mm512_add_pd(sum.hi, _mm512_mul_pd(a_hi, b_hi));
    return sum;
}
static inline double d_sum(vd v) { return _mm512_reduce_add_pd(_mm512_add_pd(v.lo, v.hi)); }

/* scan_*: bits of the keys in [lo, lo + span) of a group, and *below += those under lo */
#define GROUP_U32 16
#define GROUP_U16 32
static inline uint64_t scan_u32(const void *p, size_t i, uint32_t lo, uint32_t span,
                                uint64_t *below) {
    const __m512i bits = _mm512_loadu_si512((const char *)p + 4 * i);
    const __m512i key = _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
    const __m512i from = _mm512_set1_epi32((int)lo);
    *below += (uint64_t)__builtin_popcount(_mm512_cmplt_epu32_mask(key, from));
    return _mm512_cmplt_epu32_mask(_mm512_sub_epi32(key, from), _mm512_set1_epi32((int)span));
}
static inline uint64_t scan_u16(const void *p, size_t i, uint16_t lo, uint16_t span,
                                uint64_t *below) {
    const __m512i bits = _mm512_loadu_si512((const char *)p + 2 * i);
    const __m512i key = _mm512_and_si512(bits, _mm512_set1_epi16(0x7FFF));
    const __m512i from = _mm512_set1_epi16((short)lo);
    *below += (uint64_t)__builtin_popcount(_mm512_cmplt_epu16_mask(key, from));
    return _mm512_cmplt_epu16_mask(_mm512_sub_epi16(key, from), _mm512_set1_epi16((short)span));
}

#endif
