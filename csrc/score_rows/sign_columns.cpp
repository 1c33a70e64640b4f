#include "score_rows/sign_columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"

namespace gradsift {
namespace {

constexpr double kLargest = 127.0;

double largest_sum(const float* column, int64_t dim) {
    double largest = 0.0;
    for (int64_t k = 0; k < dim; k += 4) {
        double sum = 0.0;
        for (int64_t j = k; j < k + 4; ++j) sum += std::fabs(static_cast<double>(column[j]));
        largest = std::max(largest, sum);
    }
    return largest;
}

/// Bit j of an entry's number is the sign of column[j]; set means −1.
void fill_table(const float* column, double step, uint8_t* table) {
    for (int signs = 0; signs < kTableEntries; ++signs) {
        double sum = 0.0;
        for (int j = 0; j < 4; ++j) sum += (signs >> j & 1) != 0 ? -static_cast<double>(column[j]) : column[j];
        const double integer = step > 0.0 ? std::nearbyint(sum / step) : 0.0;
        table[signs] = static_cast<uint8_t>(kTableOffset + std::clamp(integer, -kLargest, kLargest));
    }
}

}  // namespace

void pack_sign_columns(const PackColumns& call, int64_t tile_columns, uint8_t* packed) {
    const int64_t words = sign_chunk(call.dim) / (8 * kWordBytes);
    uint8_t* const tables = packed + sign_heads_bytes(call.columns);
    for (int64_t c = 0; c < call.columns; ++c) {
        const float* const column = call.targets + c * call.stride;
        const double largest = largest_sum(column, call.dim), step = largest / kLargest;
        require(std::isfinite(largest), "targets: expected numbers whose rotation float32 can hold, got a larger one");
        std::memcpy(packed + c * static_cast<int64_t>(sizeof step), &step, sizeof step);
        const int64_t begin = c - c % tile_columns, size = std::min(tile_columns, call.columns - begin);
        for (int64_t k = 0; k < call.dim; k += 4) {
            const int64_t byte = k / 8, word = byte / kWordBytes, chunk = word / words;
            const int64_t at = (chunk * call.columns + begin) * words + word % words * size + (c - begin);
            const int64_t table = k / 4 % 2 * kWordBytes + byte % kWordBytes;
            fill_table(column + k, step, tables + at * kWordTables + table * kTableEntries);
        }
    }
}

}  // namespace gradsift
