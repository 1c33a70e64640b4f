// Codes to rows, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "quantise/hadamard.h"
#include "quantise/quantise_kernel.h"

namespace gradsift {
namespace {

inline void widen(const int8_t* codes, float* q) {
    for (int k = 0; k < kGroupNumbers; ++k) q[k] = static_cast<float>(codes[k]);
}

inline void split_halves(const uint8_t* codes, int8_t* q) {
    for (int k = 0; k < kGroupNumbers / 2; ++k) {
        // Four bits of two's complement: the highest is worth −8.
        q[2 * k] = static_cast<int8_t>(((codes[k] & 15) ^ 8) - 8);
        q[2 * k + 1] = static_cast<int8_t>(((codes[k] >> 4) ^ 8) - 8);
    }
}

template <int kBits>
inline void unpack(const uint8_t* codes, Vec (&v)[kGroup]) {
    if constexpr (kBits == 1) {
        for (int k = 0; k < kGroup; ++k) {
            const int bit = k * Vec::kLanes;
            const uint32_t low = codes[bit / 8], high = Vec::kLanes > 8 ? codes[bit / 8 + 1] : 0;
            v[k] = Vec::negate(Vec::all(1.0f), (low | high << 8) >> (bit % 8));
        }
    } else {
        alignas(64) float q[kGroupNumbers];
        if constexpr (kBits == 8) {
            widen(reinterpret_cast<const int8_t*>(codes), q);
        } else {
            int8_t halves[kGroupNumbers];
            split_halves(codes, halves);
            widen(halves, q);
        }
        for (int k = 0; k < kGroup; ++k) v[k] = Vec::load(q + k * Vec::kLanes);
    }
}

template <int kBits>
void dequantise_row(const uint8_t* codes, float scale, const uint32_t* signs, int64_t dim, float* y, float* row) {
    for (int64_t at = 0; at < dim; at += kGroupNumbers) {
        Vec v[kGroup];
        unpack<kBits>(codes + at * kBits / 8, v);
        first_stages(v);
        for (int k = 0; k < kGroup; ++k) v[k].store(y + at + k * Vec::kLanes);
    }
    later_stages(y, dim);
    const Vec factor = Vec::all(scale);
    for (int64_t i = 0; i < dim; i += Vec::kLanes) {
        Vec::negate(Vec::load(y + i) * factor, signs[i / 32] >> (i % 32)).store(row + i);
    }
}

void run_dequantise(const DequantiseSlice& slice) {
    for (int64_t r = 0; r < slice.count; ++r) {
        const uint8_t* const codes = slice.codes + r * slice.code_stride;
        float* const row = slice.rows + r * slice.row_stride;
        const float scale = slice.scales[r];
        if (!(scale < 0.0f || scale > 0.0f)) {
            const float all = scale == 0.0f ? 0.0f : __builtin_nanf("");
            for (int64_t i = 0; i < slice.dim; ++i) row[i] = all;
        } else if (slice.bits == 8) {
            dequantise_row<8>(codes, scale, slice.signs, slice.dim, slice.scratch, row);
        } else if (slice.bits == 4) {
            dequantise_row<4>(codes, scale, slice.signs, slice.dim, slice.scratch, row);
        } else {
            dequantise_row<1>(codes, scale, slice.signs, slice.dim, slice.scratch, row);
        }
    }
}

}  // namespace
}  // namespace gradsift
