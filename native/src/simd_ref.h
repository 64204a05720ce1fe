/* The reference "instruction set": vectors of one number, in C that runs anywhere. */
#ifndef GGS_SIMD_H
#define GGS_SIMD_H

#include "scalar.h"
#include "scan_plain.h"

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

#endif
