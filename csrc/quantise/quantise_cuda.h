#pragma once
#include <cstdint>

#include "common/matrix_view.h"
#include "cuda/launch.h"

namespace gradsift {

/// QuantiseRows on a card: the same bytes. Every address is device memory; the call returns before the work is done.
struct QuantiseRowsCuda {
    cuda::Place place;
    MatrixView<const float> rows;
    int bits = 8;
    uint64_t seed = 0;
    uint8_t* codes = nullptr;
    float* scales = nullptr;
    double* norms = nullptr;
    float* scratch = nullptr;  // quantise_cuda_scratch bytes
};

void quantise_rows_cuda(const QuantiseRowsCuda& call);

/// DequantiseRows on a card: the same bits.
struct DequantiseRowsCuda {
    cuda::Place place;
    MatrixView<const uint8_t> codes;
    const float* scales = nullptr;
    int bits = 8;
    uint64_t seed = 0;
    MatrixView<float> rows;
    float* scratch = nullptr;
};

void dequantise_rows_cuda(const DequantiseRowsCuda& call);

/// What either call needs on this device for rows of P numbers; 0 up to P = 32768.
int64_t quantise_cuda_scratch(int device, int64_t rows, int64_t proj_dim);

}  // namespace gradsift
