/* NEON of AArch64: four numbers a vector. */
#ifndef GGS_SIMD_H
#define GGS_SIMD_H

#include <arm_neon.h>

#include "scalar.h"
#include "scan_plain.h"

#define ISA neon
#define LANES 4

typedef float32x4_t vf;
typedef struct {
    float64x2_t lo, hi;
} vd;

static inline vf load_f32(const void *p, size_t i) {
    return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)p + 4 * i));
}
static inline void store_f32(void *p, size_t i, vf v) {
    vst1q_u8((uint8_t *)p + 4 * i, vreinterpretq_u8_f32(v));
}

static inline vf load_f16(const void *p, size_t i) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 2 * i)));
}
static inline void store_f16(void *p, size_t i, vf v) {
    vst1_u8((uint8_t *)p + 2 * i, vreinterpret_u8_f16(vcvt_f16_f32(v)));
}

static inline vf load_bf16(const void *p, size_t i) {
    const uint16x4_t h = vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 2 * i));
    return vreinterpretq_f32_u32(vshll_n_u16(h, 16));
}
static inline void store_bf16(void *p, size_t i, vf v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t upper = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t half = vaddq_u32(odd, vdupq_n_u32(0x7FFF));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, half), 16);
    const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(64));
    const uint32x4_t wide = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
    vst1_u8((uint8_t *)p + 2 * i, vreinterpret_u8_u16(vmovn_u32(wide)));
}

static inline vf v_set(float x) { return vdupq_n_f32(x); }
static inline vf v_add(vf a, vf b) { return vaddq_f32(a, b); }
static inline vf v_mul(vf a, vf b) { return vmulq_f32(a, b); }

static inline vd d_zero(void) {
    const vd zero = {vdupq_n_f64(0), vdupq_n_f64(0)};
    return zero;
}
static inline vd d_add_products(vd sum, vf a, vf b) {
    const float64x2_t a_lo = vcvt_f64_f32(vget_low_f32(a)), a_hi = vcvt_high_f64_f32(a);
    const float64x2_t b_lo = vcvt_f64_f32(vget_low_f32(b)), b_hi = vcvt_high_f64_f32(b);
    sum.lo = vaddq_f64(sum.lo, vmulq_f64(a_lo, b_lo));
    sum.hi = vaddq_f64(sum.hi, vmulq_f64(a_hi, b_hi));
    return sum;
}
static inline double d_sum(vd v) { return vaddvq_f64(vaddq_f64(v.lo, v.hi)); }

#endif
