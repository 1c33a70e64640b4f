// Between quantise_cuda.cpp and its kernels.
#pragma once
#include <stdint.h>

namespace gradsift {

constexpr int kQuantiseThreads = 256;
/// Numbers that lie in shared memory at once; of longer rows the two halves follow each other.
constexpr int64_t kQuantiseAtOnce = 32768;

struct QuantiseArgs {
    const float* rows;
    int64_t row_stride;  // numbers
    int64_t n;
    int64_t dim;
    int bits;
    double clip, largest;
    uint32_t key[2];  // of the signs
    uint8_t* codes;
    float* scales;
    double* norms;
    float* half;  // kQuantiseAtOnce numbers a block of threads, where rows are longer
};

struct DequantiseArgs {
    const uint8_t* codes;
    int64_t code_stride;
    const float* scales;
    int64_t n;
    int64_t dim;
    int bits;
    uint32_t key[2];
    float* rows;
    int64_t row_stride;
    float* half;
};

/// Shared memory of a block: numbers, a gap after each 32 so that no stride meets one bank alone, and a sign for each.
constexpr int64_t quantise_shared_bytes(int64_t dim) {
    const int64_t held = dim < kQuantiseAtOnce ? dim : kQuantiseAtOnce;
    return (held + held / 32) * 4 + dim / 32 * 4;
}

}  // namespace gradsift
