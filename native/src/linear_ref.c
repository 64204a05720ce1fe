#include "simd_ref.h"

#include "linear.inc"
