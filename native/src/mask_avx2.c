#include "simd_avx2.h"

#include "mask.inc"
