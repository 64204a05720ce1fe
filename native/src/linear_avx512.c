#include "simd_avx512.h"

#include "linear.inc"
