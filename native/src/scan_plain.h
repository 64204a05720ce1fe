/* The scan_* of instruction sets that have no quick way from a comparison to bits. */
#ifndef GGS_SCAN_PLAIN_H
#define GGS_SCAN_PLAIN_H

#include "scalar.h"

/* scan_*: bits of the keys in [lo, lo + span) of a group, and *below += those under lo */
#define GROUP_U32 16
#define GROUP_U16 32
static inline uint64_t scan_u32(const void *p, size_t i, uint32_t lo, uint32_t span,
                                uint64_t *below) {
    uint64_t inside = 0;
    for (unsigned k = 0; k < GROUP_U32; k++) {
        const uint32_t key = ggs_load_u32(p, i + k) & 0x7FFFFFFFu;
        inside |= (uint64_t)(key - lo < span) << k;
        *below += key < lo;
    }
    return inside;
}
static inline uint64_t scan_u16(const void *p, size_t i, uint16_t lo, uint16_t span,
                                uint64_t *below) {
    uint64_t inside = 0;
    for (unsigned k = 0; k < GROUP_U16; k++) {
        const uint16_t key = ggs_load_u16(p, i + k) & 0x7FFFu;
        inside |= (uint64_t)((uint16_t)(key - lo) < span) << k;
        *below += key < lo;
    }
    return inside;
}

#endif
