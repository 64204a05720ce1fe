/* The reference "instruction set": vectors of one number, in C that runs anywhere. */
#ifndef GGS_SIMD_H
#define GGS_SIMD_H

#include "scalar.h"

#define ISA ref
#define LANES 1

typedef float vf;
typedef double vd;

#define load_f32 load1_f32
#define load_f16 load1_f16
#define load_bf16 load1_bf16
#define store_f32 store1_f32
#define store_f16 store1_f16
#define store_bf16 store1_bf16

static inline vf v_set(float x) { return x; }
static inline vf v_add(vf a, vf b) { return a + b; }
static inline vf v_mul(vf a, vf b) { return a * b; }

static inline vd d_zero(void) { return 0.0; }
static inline vd d_add_products(vd sum, vf a, vf b) { return sum + (double)a * (double)b; }
static inline double d_sum(vd v) { return v; }

/* scan_*: bits of the keys in [lo, lo + span) of a group, and *below += those under lo */
#define GROUP_U32 16
#define GROUP_U16 32
static inline uint64_t scan_u32(const void *p, size_t i, uint32_t lo, uint32_t span,
                                uint64_t *below) {
    uint64_t inside = 0;
    for (unsigned k = 0; k < GROUP_U32; k++) {
        const uint32_t key = ggs_load_u32(p, i + k) & 0x7FFFFFFFu;
        inside |= (uint64_t)(key - lo < span) << k;
        *below += key < lo;
    }
    return inside;
}
static inline uint64_t scan_u16(const void *p, size_t i, uint16_t lo, uint16_t span,
                                uint64_t *below) {
    uint64_t inside = 0;
    for (unsigned k = 0; k < GROUP_U16; k++) {
        const uint16_t key = ggs_load_u16(p, i + k) & 0x7FFFu;
        inside |= (uint64_t)((uint16_t)(key - lo) < span) << k;
        *below += key < lo;
    }
    return inside;
}

#endif
