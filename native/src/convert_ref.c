#include "simd_ref.h"

#include "convert.inc"
