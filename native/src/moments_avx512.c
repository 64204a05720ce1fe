#include "simd_avx512.h"

#include "moments.inc"
