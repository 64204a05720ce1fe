/* GGS_NAME(op, type) is ggs_<op>_<type>_<isa>, with the ISA of the simd_*.h included before. */
#ifndef GGS_TEMPLATE_H
#define GGS_TEMPLATE_H

#include "kernels.h"

#define GGS_PASTE_(op, type, isa) ggs_##op##_##type##_##isa
#define GGS_PASTE(op, type, isa) GGS_PASTE_(op, type, isa)
#define GGS_NAME(op, type) GGS_PASTE(op, type, ISA)

#define GGS_FOR_TYPES(DEFINE) DEFINE(f32) DEFINE(f16) DEFINE(bf16)

#define GGS_INLINE static inline __attribute__((always_inline))

#endif
