// Rows to codes, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include <stddef.h>

#include "quantise/hadamard.h"
#include "quantise/quantise_kernel.h"

namespace gradsift {
namespace {

constexpr int kNormLanes = 16;

/// Sixteen running sums, whatever a vector holds, so that every instruction set adds in one order.
inline double row_norm(const float* x, int64_t dim) {
    constexpr int kParts = kNormLanes / Vec::kLanes;
    Vec::SquareSum parts[kParts];
    for (int64_t at = 0; at < dim; at += kNormLanes) {
        for (int k = 0; k < kParts; ++k) parts[k].add(Vec::load(x + at + k * Vec::kLanes));
    }
    double sums[kNormLanes];
    for (int k = 0; k < kParts; ++k) parts[k].store(sums + k * Vec::kLanes);
    for (int width = kNormLanes / 2; width > 0; width /= 2) {
        for (int k = 0; k < width; ++k) sums[k] = sums[2 * k] + sums[2 * k + 1];
    }
    return __builtin_sqrt(sums[0]);
}

inline void rotate(const float* x, const uint32_t* signs, int64_t dim, float* y) {
    for (int64_t at = 0; at < dim; at += kGroupNumbers) {
        Vec v[kGroup];
        for (int k = 0; k < kGroup; ++k) {
            const int64_t i = at + k * Vec::kLanes;
            v[k] = Vec::negate(Vec::load(x + i), signs[i / 32] >> (i % 32));
        }
        first_stages(v);
        for (int k = 0; k < kGroup; ++k) v[k].store(y + at + k * Vec::kLanes);
    }
    later_stages(y, dim);
}

// A float added to 1.5 · 2²³ is rounded to an integer, halves to even, which its lowest bits then hold.
constexpr float kRoundingBias = 12582912.0f;

constexpr int kPackNumbers = 64;

/// 64 codes, each the lowest byte of an integer of 32 bits.
inline void round_codes(const float* y, float per_step, float largest, uint32_t* codes) {
    for (int k = 0; k < kPackNumbers; k += Vec::kLanes) {
        const Vec code = Vec::clamp(Vec::load(y + k) * Vec::all(per_step), largest) + Vec::all(kRoundingBias);
        __builtin_memcpy(codes + k, &code, sizeof code);
    }
}

inline void pack_bytes(const float* y, float per_step, int64_t dim, uint8_t* codes) {
    uint32_t q[kPackNumbers];
    for (int64_t at = 0; at < dim; at += kPackNumbers) {
        round_codes(y + at, per_step, 127.0f, q);
        for (int k = 0; k < kPackNumbers; ++k) codes[at + k] = static_cast<uint8_t>(q[k]);
    }
}

inline void pack_halves(const float* y, float per_step, int64_t dim, uint8_t* codes) {
    uint32_t q[kPackNumbers];
    for (int64_t at = 0; at < dim; at += kPackNumbers) {
        round_codes(y + at, per_step, 7.0f, q);
        for (int k = 0; k < kPackNumbers / 2; ++k) {
            codes[at / 2 + k] = static_cast<uint8_t>((q[2 * k] & 15) | ((q[2 * k + 1] & 15) << 4));
        }
    }
}

inline void pack_signs(const float* y, int64_t dim, uint8_t* codes) {
    for (int64_t at = 0; at < dim; at += 32) {
        uint32_t word = 0;
        for (int k = 0; k < 32; k += Vec::kLanes) word |= Vec::below_zero(Vec::load(y + at + k)) << k;
        for (int k = 0; k < 4; ++k) codes[at / 8 + k] = static_cast<uint8_t>(word >> (8 * k));
    }
}

constexpr double kSmallestNorm = 0x1p-100, kLargestNorm = 0x1p100;

void run_quantise(const QuantiseSlice& slice) {
    const int64_t dim = slice.dim, row_bytes = dim * slice.bits / 8;
    for (int64_t r = 0; r < slice.count; ++r) {
        const float* const x = slice.rows + r * slice.row_stride;
        uint8_t* const codes = slice.codes + r * row_bytes;
        const double norm = row_norm(x, dim);
        slice.norms[r] = norm - norm == 0.0 ? norm : __builtin_nan("");
        if (!(norm >= kSmallestNorm && norm <= kLargestNorm)) {
            slice.scales[r] = norm == 0.0 ? 0.0f : __builtin_nanf("");
            __builtin_memset(codes, 0, static_cast<size_t>(row_bytes));
            continue;
        }
        const double step = slice.clip * norm;
        slice.scales[r] = static_cast<float>(step / (static_cast<double>(dim) * slice.largest));
        const float per_step = static_cast<float>(slice.largest / step);
        rotate(x, slice.signs, dim, slice.scratch);
        if (slice.bits == 8) {
            pack_bytes(slice.scratch, per_step, dim, codes);
        } else if (slice.bits == 4) {
            pack_halves(slice.scratch, per_step, dim, codes);
        } else {
            pack_signs(slice.scratch, dim, codes);
        }
    }
}

}  // namespace
}  // namespace gradsift
