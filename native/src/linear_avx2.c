#include "simd_avx2.h"

#include "linear.inc"
