#include "simd_avx2.h"

#include "moments.inc"
