/* One number at a time: conversions in plain C. They are the definition that the
 * vector versions must equal bit by bit, and they finish what a vector leaves over.
 *
 *   F16   sign 1 | exponent 5 (bias 15)  | fraction 10
 *   BF16  sign 1 | exponent 8 (bias 127) | fraction 7     = the upper half of F32
 *   F32   sign 1 | exponent 8 (bias 127) | fraction 23
 */
#ifndef GGS_SCALAR_H
#define GGS_SCALAR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t ggs_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float ggs_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float ggs_f16_to_float(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u, fraction = h & 0x3FFu;
    if (exponent == 0) { /* zero or subnormal: fraction · 2^-24, exact in float32 */
        return ggs_float(sign | ggs_bits((float)fraction * 0x1p-24f));
    }
    if (exponent == 31) { /* infinity; a NaN comes out quiet, as the hardware has it */
        return ggs_float(sign | 0x7F800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    }
    return ggs_float(sign | (exponent + 112u) << 23 | fraction << 13);
}

static inline uint16_t ggs_float_to_f16(float x) {
    const uint32_t bits = ggs_bits(x), sign = bits >> 16 & 0x8000u;
    uint32_t a = bits & 0x7FFFFFFFu;
    if (a > 0x7F800000u) { /* NaN: quiet, upper bits of the payload kept */
        return (uint16_t)(sign | 0x7E00u | (a >> 13 & 0x3FFu));
    }
    if (a >= 0x477FF000u) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (a < 0x38800000u) { /* below 2^-14: next to 0.5 the spacing of float32 is 2^-24, so */
        return (uint16_t)(sign | (ggs_bits(ggs_float(a) + 0.5f) - 0x3F000000u)); /* it rounds */
    }
    a += 0xFFFu + (a >> 13 & 1u); /* half of the last place, less one if that is even */
    return (uint16_t)(sign | ((a >> 13) - (112u << 10)));
}

static inline float ggs_bf16_to_float(uint16_t h) { return ggs_float((uint32_t)h << 16); }

static inline uint16_t ggs_float_to_bf16(float x) {
    const uint32_t bits = ggs_bits(x);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) {
        return (uint16_t)(bits >> 16 | 64u);
    }
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* load1_<type>(p, i) and store1_<type>(p, i, x): element i of an unaligned buffer */

static inline uint16_t ggs_load_u16(const void *p, size_t i) {
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return h;
}
static inline void ggs_store_u16(void *p, size_t i, uint16_t h) {
    memcpy((char *)p + 2 * i, &h, 2);
}
static inline uint32_t ggs_load_u32(const void *p, size_t i) {
    uint32_t u;
    memcpy(&u, (const char *)p + 4 * i, 4);
    return u;
}
static inline void ggs_store_u32(void *p, size_t i, uint32_t u) {
    memcpy((char *)p + 4 * i, &u, 4);
}

static inline float load1_f32(const void *p, size_t i) { return ggs_float(ggs_load_u32(p, i)); }
static inline float load1_f16(const void *p, size_t i) {
    return ggs_f16_to_float(ggs_load_u16(p, i));
}
static inline float load1_bf16(const void *p, size_t i) {
    return ggs_bf16_to_float(ggs_load_u16(p, i));
}
static inline void store1_f32(void *p, size_t i, float x) { ggs_store_u32(p, i, ggs_bits(x)); }
static inline void store1_f16(void *p, size_t i, float x) {
    ggs_store_u16(p, i, ggs_float_to_f16(x));
}
static inline void store1_bf16(void *p, size_t i, float x) {
    ggs_store_u16(p, i, ggs_float_to_bf16(x));
}

#endif
