#include "simd_ref.h"

#include "mask.inc"
