#include "simd_ref.h"

#include "histogram.inc"
