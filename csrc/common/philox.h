// Philox4x32-10 (Salmon et al., SC 2011), the source of every random bit (docs/projection-spec.md).
#pragma once
#include <stdint.h>

namespace gradsift {

// All static: the per-ISA files read this header and must not emit shared inline functions.

constexpr int kPhiloxLanes = 16;

/// Ten rounds over the counters x[0..3] of each lane, in place.
/// Written over lanes so that a compiler can keep them in vectors.
static inline void philox_rounds(uint32_t (&x)[4][kPhiloxLanes], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; ++round) {
        for (int l = 0; l < kPhiloxLanes; ++l) {
            const uint64_t p0 = uint64_t{0xD2511F53u} * x[0][l];
            const uint64_t p1 = uint64_t{0xCD9E8D57u} * x[2][l];
            x[0][l] = static_cast<uint32_t>(p1 >> 32) ^ x[1][l] ^ k0;
            x[1][l] = static_cast<uint32_t>(p1);
            x[2][l] = static_cast<uint32_t>(p0 >> 32) ^ x[3][l] ^ k1;
            x[3][l] = static_cast<uint32_t>(p0);
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/// Blocks of counters (c0, c1, c2, first), (c0, c1, c2, first + 1), … under one key; block n goes to out[n].
static inline void philox_lanes(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t first, uint32_t k0, uint32_t k1,
                                int64_t count, uint32_t (*out)[4]) {
    for (int64_t done = 0; done < count; done += kPhiloxLanes) {
        uint32_t x[4][kPhiloxLanes];
        for (int l = 0; l < kPhiloxLanes; ++l) {
            x[0][l] = c0;
            x[1][l] = c1;
            x[2][l] = c2;
            x[3][l] = first + static_cast<uint32_t>(done + l);
        }
        philox_rounds(x, k0, k1);
        const int64_t left = count - done < kPhiloxLanes ? count - done : kPhiloxLanes;
        for (int64_t l = 0; l < left; ++l) {
            for (int w = 0; w < 4; ++w) out[done + l][w] = x[w][l];
        }
    }
}

}  // namespace gradsift
