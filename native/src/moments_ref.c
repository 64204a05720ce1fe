#include "simd_ref.h"

#include "moments.inc"
