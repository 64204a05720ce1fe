#include "simd_neon.h"

#include "mask.inc"
