#include "simd_avx512.h"

#include "convert.inc"
