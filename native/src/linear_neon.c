#include "simd_neon.h"

#include "linear.inc"
