#include "score_rows/code_columns.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/check.h"

namespace gradsift {
namespace {

constexpr double kLargest = 127.0;

/// Within half a step of the column. With its largest magnitude at 127 nothing is cut off.
CodeColumn round_column(const float* column, int64_t dim, int8_t* integers) {
    float largest = 0.0f;
    for (int64_t k = 0; k < dim; ++k) largest = std::fmax(largest, std::fabs(column[k]));
    require(std::isfinite(largest), "targets: expected numbers whose rotation float32 can hold, got a larger one");
    const double step = static_cast<double>(largest) / kLargest;
    int64_t sum = 0;
    for (int64_t k = 0; k < dim; ++k) {
        const double integer = step > 0.0 ? std::nearbyint(static_cast<double>(column[k]) / step) : 0.0;
        integers[k] = static_cast<int8_t>(std::clamp(integer, -kLargest, kLargest));
        sum += integers[k];
    }
    return {step, sum};
}

}  // namespace

void pack_code_columns(const PackColumns& call, const CodeLayout& layout, uint8_t* packed) {
    const int64_t chunk = code_chunk(call.dim), halves = 8 / layout.bits, width = layout.width;
    const CodeTiles tiles = code_tiles(call.columns, layout.tile_columns);
    uint8_t* const integers = packed + code_heads_bytes(call.columns);
    std::vector<int8_t> rounded(static_cast<size_t>(call.dim));
    for (int64_t c = 0; c < call.columns; ++c) {
        const CodeColumn head = round_column(call.targets + c * call.stride, call.dim, rounded.data());
        std::memcpy(packed + c * static_cast<int64_t>(sizeof head), &head, sizeof head);
        const int64_t begin = c < tiles.first ? 0 : c - (c - tiles.first) % tiles.other;
        const int64_t size = std::min(begin == 0 && c < tiles.first ? tiles.first : tiles.other, call.columns - begin);
        for (int64_t k = 0; k < call.dim; ++k) {
            const int64_t in_chunk = k % chunk, in_step = in_chunk % (width * halves);
            const int64_t step = in_chunk / (width * halves), half = in_step % halves, lane = in_step / halves;
            const int64_t vector = (step * halves + half) * size + (c - begin);
            const int64_t at = (k / chunk * call.columns + begin) * chunk + vector * width + lane;
            if (layout.column_bytes == 1) {
                integers[at] = static_cast<uint8_t>(rounded[static_cast<size_t>(k)]);
            } else {
                const int16_t wide = rounded[static_cast<size_t>(k)];
                std::memcpy(integers + 2 * at, &wide, sizeof wide);
            }
        }
    }
}

}  // namespace gradsift
