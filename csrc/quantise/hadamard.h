// The Hadamard transform in place, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include <stdint.h>

namespace gradsift {
namespace {

/// What a first pass handles: this many vectors in registers at once.
constexpr int kGroup = 8;
constexpr int64_t kGroupNumbers = kGroup * Vec::kLanes;

/// Every pair (v[i], v[i + h]), i without bit h, becomes (sum, difference): within vectors, for h below a vector.
/// Lane i takes v[i ^ h] + v[i] or, where it has bit h, v[i ^ h] − v[i].
template <int kStep>
inline void pairs_within(Vec (&v)[kGroup]) {
    constexpr uint32_t kUpper = [] {
        uint32_t bits = 0;
        for (int lane = 0; lane < Vec::kLanes; ++lane) bits |= (lane & kStep) != 0 ? 1u << lane : 0u;
        return bits;
    }();
    const Vec::Permutation other = Vec::xor_lanes(kStep);
    for (int k = 0; k < kGroup; ++k) v[k] = Vec::permute(v[k], other) + Vec::negate(v[k], kUpper);
}

template <int kCount>
inline void pairs_across(Vec (&v)[kCount]) {
    for (int h = 1; h < kCount; h *= 2) {
        for (int k = 0; k < kCount; ++k) {
            if ((k & h) != 0) continue;
            const Vec a = v[k], b = v[k + h];
            v[k] = a + b;
            v[k + h] = a - b;
        }
    }
}

/// h = 1 … kGroupNumbers / 2, ascending, on consecutive numbers.
inline void first_stages(Vec (&v)[kGroup]) {
    pairs_within<1>(v);
    pairs_within<2>(v);
    if constexpr (Vec::kLanes > 4) pairs_within<4>(v);
    if constexpr (Vec::kLanes > 8) pairs_within<8>(v);
    pairs_across<kGroup>(v);
}

template <int kCount>
inline void stages(float* y, int64_t dim, int64_t h) {
    for (int64_t block = 0; block < dim; block += kCount * h) {
        for (int64_t at = block; at < block + h; at += Vec::kLanes) {
            Vec v[kCount];
            for (int k = 0; k < kCount; ++k) v[k] = Vec::load(y + at + k * h);
            pairs_across<kCount>(v);
            for (int k = 0; k < kCount; ++k) v[k].store(y + at + k * h);
        }
    }
}

/// h = kGroupNumbers … dim / 2, ascending, three at a time as long as there are three.
inline void later_stages(float* y, int64_t dim) {
    int64_t h = kGroupNumbers;
    for (; 8 * h <= dim; h *= 8) stages<8>(y, dim, h);
    if (4 * h <= dim) {
        stages<4>(y, dim, h);
    } else if (2 * h <= dim) {
        stages<2>(y, dim, h);
    }
}

}  // namespace
}  // namespace gradsift
