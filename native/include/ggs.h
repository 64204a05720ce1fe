/* ggsurgery's kernels: arithmetic on rows of F32, F16 and BF16 weights.
 *
 * Contract of every function:
 *   - the caller owns all buffers; nothing is allocated, no thread is started;
 *   - buffers need no alignment; `dst` may be the very same address as a source
 *     of the same type, but must not overlap one in any other way;
 *   - sums are taken in float32 in the order of the inputs, without fused
 *     multiply-add, so every instruction set gives the same bits;
 *   - F16 and BF16 are rounded to nearest even; NaN stays NaN, infinity stays
 *     infinity, subnormal numbers are kept;
 *   - the return value is a ggs_status.
 *
 * Types carry ggml's numbers, so a tensor's type id can be passed as it is.
 */
#ifndef GGS_H
#define GGS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GGS_ABI 1

#if defined(_WIN32)
#define GGS_API __declspec(dllexport)
#else
#define GGS_API __attribute__((visibility("default")))
#endif

typedef enum { GGS_F32 = 0, GGS_F16 = 1, GGS_BF16 = 30 } ggs_type;

typedef enum {
    GGS_OK = 0,
    GGS_BAD_TYPE = 1,     /* not F32, F16 or BF16 */
    GGS_BAD_ARGUMENT = 2, /* a null pointer, no source, a range out of bounds */
    GGS_BAD_ISA = 3       /* an unknown instruction set, or one this CPU lacks */
} ggs_status;

/* Version of this interface: GGS_ABI of the library that was loaded. */
GGS_API int ggs_abi(void);

/* Name of the instruction set in use: "ref", "avx2", "avx512" or "neon".
 * The best one is chosen at the first call, unless the environment variable
 * GGSURGERY_ISA names another. NULL if that name cannot be used here. */
GGS_API const char *ggs_isa(void);

/* Choose an instruction set; NULL or "" for the best. Not thread-safe: call it
 * before the work starts. */
GGS_API ggs_status ggs_select_isa(const char *name);

/* dst[i] = the float32 value of src[i] */
GGS_API ggs_status ggs_decode(int type, float *dst, const void *src, size_t n);

/* dst[i] = src[i] rounded to the type */
GGS_API ggs_status ggs_encode(int type, void *dst, const float *src, size_t n);

/* dst[i] = w[0]*src[0][i] + w[1]*src[1][i] + …, summed from the left */
GGS_API ggs_status ggs_linear(int type, void *dst, const void *const *src, const float *weights,
                              size_t n_src, size_t n);

/* dst[i] = 0 where the magnitude key of src[i] lies in [lo, hi), else src[i].
 *
 * The magnitude key of a number is its bits without the sign: 15 bits for F16
 * and BF16, 31 for F32. Keys order numbers by their absolute value. */
GGS_API ggs_status ggs_mask(int type, void *dst, const void *src, uint32_t lo, uint32_t hi,
                            size_t n);

/* *count = how many magnitude keys lie in [lo, hi) */
GGS_API ggs_status ggs_count(int type, const void *src, uint32_t lo, uint32_t hi, size_t n,
                             uint64_t *count);

/* sums[0] = Σ a·b, sums[1] = Σ a·a, sums[2] = Σ b·b, accumulated in double:
 * the error is below n · 2^-53 · Σ|a·b| (and so on), whatever the order. */
GGS_API ggs_status ggs_moments(int type, const void *a, const void *b, size_t n, double sums[3]);

/* The distribution of the magnitude keys in [lo, hi):
 *   counts[(key - lo) >> shift] += 1 for each; counts has ((hi - lo - 1) >> shift) + 1 items;
 *   *below = how many keys are less than lo.
 * n must be below 2^32. Quick where the range holds few of the numbers. */
GGS_API ggs_status ggs_histogram(int type, const void *src, uint32_t lo, uint32_t hi, int shift,
                                 size_t n, uint32_t *counts, uint64_t *below);

#ifdef __cplusplus
}
#endif
#endif
