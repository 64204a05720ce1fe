#include "simd_avx512.h"

#include "mask.inc"
