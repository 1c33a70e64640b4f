// Philox4x32-10 (Salmon et al., SC 2011), the source of every random bit (docs/projection-spec.md).
#pragma once
#include <stdint.h>

namespace gradsift {

// All static: the per-ISA files read this header and must not emit shared inline functions.

/// Blocks of counters (c0, c1, c2, first), (c0, c1, c2, first + 1), … under one key; block l goes to out[l].
/// Written over lanes so that a compiler can keep them in vectors.
static inline void philox_lanes(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t first, uint32_t k0, uint32_t k1,
                                int64_t count, uint32_t (*out)[4]) {
    constexpr int kLanes = 16;
    for (int64_t done = 0; done < count; done += kLanes) {
        uint32_t x0[kLanes], x1[kLanes], x2[kLanes], x3[kLanes];
        for (int l = 0; l < kLanes; ++l) {
            x0[l] = c0;
            x1[l] = c1;
            x2[l] = c2;
            x3[l] = first + static_cast<uint32_t>(done + l);
        }
        uint32_t r0 = k0, r1 = k1;
        for (int round = 0; round < 10; ++round) {
            for (int l = 0; l < kLanes; ++l) {
                const uint64_t p0 = uint64_t{0xD2511F53u} * x0[l];
                const uint64_t p1 = uint64_t{0xCD9E8D57u} * x2[l];
                x0[l] = static_cast<uint32_t>(p1 >> 32) ^ x1[l] ^ r0;
                x1[l] = static_cast<uint32_t>(p1);
                x2[l] = static_cast<uint32_t>(p0 >> 32) ^ x3[l] ^ r1;
                x3[l] = static_cast<uint32_t>(p0);
            }
            r0 += 0x9E3779B9u;
            r1 += 0xBB67AE85u;
        }
        const int64_t left = count - done < kLanes ? count - done : kLanes;
        for (int64_t l = 0; l < left; ++l) {
            out[done + l][0] = x0[l];
            out[done + l][1] = x1[l];
            out[done + l][2] = x2[l];
            out[done + l][3] = x3[l];
        }
    }
}

}  // namespace gradsift
