#include "simd_avx2.h"

#include "convert.inc"
