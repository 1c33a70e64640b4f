// The kernels of datastores, whose bytes must be the same for every instruction set and number of threads.
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "checks.h"
#include "common/isa.h"
#include "quantise/quantise.h"
#include "round_rows/round_rows.h"

namespace driver {
namespace {

using Bytes = std::vector<unsigned char>;

template <class T>
void append(Bytes& all, const Block& block, int64_t count) {
    const auto* const data = block.as<unsigned char>();
    all.insert(all.end(), data, data + static_cast<size_t>(count) * sizeof(T));
}

/// Numbers of many magnitudes, row by row; the second row is zeros, the third has what is not finite.
Block make_rows(Memory memory, Side side, int64_t rows, int64_t cols, int64_t stride) {
    Block block(memory, side, static_cast<size_t>((rows - 1) * stride + cols) * sizeof(float));
    uint32_t state = 1;
    for (int64_t r = 0; r < rows; ++r) {
        float* const row = block.as<float>() + r * stride;
        for (int64_t c = 0; c < cols; ++c) {
            state = state * 1664525u + 1013904223u;
            const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
            row[c] = r == 1 ? 0.0f : std::ldexp(value, static_cast<int>(r) % 40 - 20);
        }
        if (r == 2) row[cols / 2] = std::numeric_limits<float>::quiet_NaN();
        if (r == 2) row[cols - 1] = -std::numeric_limits<float>::infinity();
    }
    return block;
}

Bytes quantised(Memory memory, Side side, int bits, int64_t dim, int threads) {
    constexpr int64_t kRows = 19, kGap = 3;
    const int64_t row_bytes = dim * bits / 8;
    const Block rows = make_rows(memory, side, kRows, dim, dim + kGap);
    const Block codes(memory, side, static_cast<size_t>(kRows * row_bytes));
    const Block scales(memory, side, kRows * sizeof(float)), norms(memory, side, kRows * sizeof(double));
    gradsift::quantise_rows({{rows.as<const float>(), kRows, dim, dim + kGap},
                             bits,
                             7,
                             codes.as<uint8_t>(),
                             scales.as<float>(),
                             norms.as<double>(),
                             threads});
    const Block back(memory, side, static_cast<size_t>((kRows - 1) * (dim + kGap) + dim) * sizeof(float));
    gradsift::dequantise_rows({{codes.as<const uint8_t>(), kRows, row_bytes, row_bytes},
                               scales.as<float>(),
                               bits,
                               7,
                               {back.as<float>(), kRows, dim, dim + kGap},
                               threads});
    Bytes all;
    append<uint8_t>(all, codes, kRows * row_bytes);
    append<float>(all, scales, kRows);
    append<double>(all, norms, kRows);
    append<float>(all, back, (kRows - 1) * (dim + kGap) + dim);
    return all;
}

Bytes rounded(Memory memory, Side side, int64_t cols) {
    constexpr int64_t kRows = 5, kGap = 1;
    const Block rows = make_rows(memory, side, kRows, cols, cols + kGap);
    const Block out(memory, side, static_cast<size_t>(kRows * cols) * sizeof(uint16_t));
    const Block largest(memory, side, kRows * sizeof(uint32_t));
    gradsift::round_rows(
        {rows.as<const float>(), kRows, cols, cols + kGap, out.as<uint16_t>(), largest.as<uint32_t>()});
    Bytes all;
    append<uint16_t>(all, out, kRows * cols);
    append<uint32_t>(all, largest, kRows);
    return all;
}

template <class Make>
void same_bytes(const std::string& what, const Make& make) {
    Bytes first;
    for (const gradsift::Isa isa : gradsift::isas()) {
        gradsift::set_isa(gradsift::isa_name(isa));
        for (const int threads : {1, 3}) {
            for (const Side side : {Side::kEnd, Side::kFront}) {
                set_doing(what + ", " + gradsift::isa_name(isa) + ", threads " + std::to_string(threads));
                const Bytes bytes = make(side, threads);
                if (first.empty()) first = bytes;
                if (bytes != first) throw std::runtime_error(std::string(doing()) + ": other bytes than at first");
            }
        }
    }
    set_doing("");
}

}  // namespace

void check_store_kernels(Memory memory) {
    for (const int64_t dim : {256, 512, 1024, 2048, 65536}) {
        for (const int bits : {8, 4, 1}) {
            same_bytes("quantise_rows " + std::to_string(dim) + ", " + std::to_string(bits) + " bits",
                       [&](Side side, int threads) { return quantised(memory, side, bits, dim, threads); });
        }
    }
    for (const int64_t cols : {1, 3, 15, 16, 17, 63, 8192}) {
        same_bytes("round_rows " + std::to_string(cols), [&](Side side, int) { return rounded(memory, side, cols); });
    }
}

}  // namespace driver
