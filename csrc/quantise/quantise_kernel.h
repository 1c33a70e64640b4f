// Between quantise.cpp and its per-ISA files: some consecutive rows. No C++ library header here.
#pragma once
#include <stdint.h>

namespace gradsift {

struct QuantiseSlice {
    const float* rows;
    int64_t row_stride;
    int64_t count;
    int64_t dim;
    int bits;
    double clip;            // where codes end, in standard deviations
    double largest;         // the largest code
    const uint32_t* signs;  // of D, one bit an entry, dim / 32 words; set means −1
    uint8_t* codes;         // dim · bits / 8 bytes a row
    float* scales;
    double* norms;
    float* scratch;  // dim numbers, aligned to 64 bytes
};

struct DequantiseSlice {
    const uint8_t* codes;
    int64_t code_stride;
    const float* scales;
    int64_t count;
    int64_t dim;
    int bits;
    const uint32_t* signs;
    float* rows;
    int64_t row_stride;
    float* scratch;
};

using QuantiseFn = void (*)(const QuantiseSlice&);
using DequantiseFn = void (*)(const DequantiseSlice&);

void quantise_scalar(const QuantiseSlice& slice);
void quantise_neon(const QuantiseSlice& slice);
void quantise_avx2(const QuantiseSlice& slice);
void quantise_avx512(const QuantiseSlice& slice);
void dequantise_scalar(const DequantiseSlice& slice);
void dequantise_neon(const DequantiseSlice& slice);
void dequantise_avx2(const DequantiseSlice& slice);
void dequantise_avx512(const DequantiseSlice& slice);

}  // namespace gradsift
