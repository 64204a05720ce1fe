#include "simd_neon.h"

#include "convert.inc"
