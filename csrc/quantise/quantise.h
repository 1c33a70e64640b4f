#pragma once
#include <cstdint>
#include <vector>

#include "common/matrix_view.h"

namespace gradsift {

/// Codes q, scale and norm of each row x so that x ≈ scale · D · H · q (docs/datastore-format.md, "Quantised rows").
///
/// rows    (n, P) float32, P a power of two from 256 to 65536, any alignment
/// codes   (n, P · bits / 8), contiguous, overwritten; bits is 8, 4 or 1
/// scales  n; norms n: ‖x‖
///
/// The same bytes for every instruction set and number of threads. Rows must not overlap an output.
struct QuantiseRows {
    MatrixView<const float> rows;
    int bits = 8;
    uint64_t seed = 0;
    uint8_t* codes = nullptr;
    float* scales = nullptr;
    double* norms = nullptr;
    int threads = 1;
};

void quantise_rows(const QuantiseRows& call);

/// rows[i] = scales[i] · D · H · q_i, each number rounded once; +0 where the scale is 0, NaN where it is NaN.
///
/// codes   (n, P · bits / 8) bytes, row stride in bytes
/// rows    (n, P) float32, overwritten, must not overlap an input
struct DequantiseRows {
    MatrixView<const uint8_t> codes;
    const float* scales = nullptr;
    int bits = 8;
    uint64_t seed = 0;
    MatrixView<float> rows;
    int threads = 1;
};

void dequantise_rows(const DequantiseRows& call);

/// The signs of D, one bit each, set for −1: `dim` / 32 words. Throws std::invalid_argument for a `dim` that is no P of
/// quantised rows.
std::vector<uint32_t> rotation_signs(uint64_t seed, int64_t dim);

}  // namespace gradsift
