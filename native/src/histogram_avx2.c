#include "simd_avx2.h"

#include "histogram.inc"
