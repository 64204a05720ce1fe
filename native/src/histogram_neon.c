#include "simd_neon.h"

#include "histogram.inc"
