#include "simd_neon.h"

#include "moments.inc"
