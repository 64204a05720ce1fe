#include "simd_avx512.h"

#include "histogram.inc"
