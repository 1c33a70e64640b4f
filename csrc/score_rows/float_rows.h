// Rows of floats against float32 columns, written once over Vec. Read by the per-ISA files after one of common/vec_*.h,
// which define kGroupColumns: how many columns stay in registers.
#pragma once
#include "score_rows/row_kernel.h"

namespace gradsift {
namespace {

constexpr int kGroupRows = 4;
// Of a row at a time. Four rows and a group's columns of as many numbers share the first-level cache; a row's sum over
// each piece is formed in registers, and the pieces are added in order.
constexpr int64_t kPiece = 512;
// Packs up to this size stay in the second-level cache whole, and rows are then read from end to end.
constexpr int64_t kCachedPackBytes = 384 << 10;

inline int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/// Columns fall into as few groups as can be, of sizes that differ by one at most.
struct Groups {
    int64_t count, size, larger;
    explicit Groups(int64_t columns)
        : count((columns + kGroupColumns - 1) / kGroupColumns), size(columns / count), larger(columns % count) {}
    int64_t width(int64_t group) const { return size + (group < larger ? 1 : 0); }
};

inline int64_t packed_bytes(int64_t columns, int64_t dim) { return 4 * columns * rounded_up(dim, Vec::kLanes); }

/// Piece by piece, group by group, vector by vector, column by column; zeros up to the end of a vector.
inline int pack(const PackColumns& call, uint8_t* packed) {
    const Groups groups(call.columns);
    float* to = reinterpret_cast<float*>(packed);
    for (int64_t begin = 0; begin < call.dim; begin += kPiece) {
        const int64_t end = begin + kPiece < call.dim ? begin + kPiece : call.dim;
        int64_t first = 0;
        for (int64_t g = 0; g < groups.count; ++g) {
            const int64_t width = groups.width(g);
            for (int64_t k = begin; k < end; k += Vec::kLanes) {
                for (int64_t c = first; c < first + width; ++c) {
                    const float* const from = call.targets + c * call.stride + k;
                    for (int64_t l = 0; l < Vec::kLanes; ++l) *to++ = k + l < end ? from[l] : 0.0f;
                }
            }
            first += width;
        }
    }
    return 0;
}

/// A piece of a row as float32, padded with zeros to whole vectors: the row itself where that is what it is.
inline const float* widened(const float* row, int64_t count, float* scratch) {
    if (count % Vec::kLanes == 0) return row;
    for (int64_t k = 0; k < count; k += Vec::kLanes) Vec::load_first(row + k, count - k).store(scratch + k);
    return scratch;
}

template <class T>
inline const float* widened(const T* row, int64_t count, float* scratch) {
    int64_t k = 0;
    for (; k + Vec::kLanes <= count; k += Vec::kLanes) Vec::load(row + k).store(scratch + k);
    if (k < count) Vec::load_first(row + k, count - k).store(scratch + k);
    return scratch;
}

inline float sum_of_squares(const float* x, int64_t vectors) {
    Vec sums[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    int64_t v = 0;
    for (; v + 4 <= vectors; v += 4) {
        for (int u = 0; u < 4; ++u) {
            const Vec part = Vec::load(x + (v + u) * Vec::kLanes);
            sums[u] = Vec::mul_add(part, part, sums[u]);
        }
    }
    for (; v < vectors; ++v) {
        const Vec part = Vec::load(x + v * Vec::kLanes);
        sums[0] = Vec::mul_add(part, part, sums[0]);
    }
    return static_cast<float>(Vec::sum((sums[0] + sums[1]) + (sums[2] + sums[3])));
}

/// Four rows and kColumns columns over one piece.
template <int kColumns>
inline void score_group(const float* const* rows, const float* columns, int64_t vectors, float* dots) {
    Vec sums[kColumns][kGroupRows];
    for (int c = 0; c < kColumns; ++c) {
        for (int r = 0; r < kGroupRows; ++r) sums[c][r] = Vec::zero();
    }
    for (int64_t v = 0; v < vectors; ++v) {
        Vec y[kColumns];
        for (int c = 0; c < kColumns; ++c) y[c] = Vec::load(columns + (v * kColumns + c) * Vec::kLanes);
        for (int r = 0; r < kGroupRows; ++r) {
            const Vec x = Vec::load(rows[r] + v * Vec::kLanes);
            for (int c = 0; c < kColumns; ++c) sums[c][r] = Vec::mul_add(x, y[c], sums[c][r]);
        }
    }
    for (int c = 0; c < kColumns; ++c) Vec::add_sums4(sums[c], dots + c * kTileRows);
}

template <int kColumns>
inline void score_width(int64_t width, const float* const* rows, const float* columns, int64_t vectors, float* dots) {
    if constexpr (kColumns > 1) {
        if (width < kColumns) return score_width<kColumns - 1>(width, rows, columns, vectors, dots);
    }
    score_group<kColumns>(rows, columns, vectors, dots);
}

/// Asks for the lines of a piece before they are read.
inline void ask_for(const uint8_t* at, int64_t bytes) {
    for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(at + b, 0, 2);
}

template <class T>
void score_float_rows(const ScoreTile& tile) {
    constexpr int64_t kSize = sizeof(T);
    const Groups groups(tile.columns);
    const bool cached = packed_bytes(tile.columns, tile.dim) <= kCachedPackBytes;
    const int64_t at_once = cached ? kGroupRows : kTileRows;
    const int64_t padded_rows = rounded_up(tile.count, kGroupRows);
    for (int64_t c = 0; c < tile.columns; ++c) {
        for (int64_t r = 0; r < padded_rows; ++r) tile.dots[c * kTileRows + r] = 0.0f;
    }
    if (tile.squares != nullptr) {
        for (int64_t r = 0; r < padded_rows; ++r) tile.squares[r] = 0.0f;
    }
    const auto row_at = [&](int64_t r) {
        return tile.rows + (r < tile.count ? r : tile.count - 1) * tile.stride_bytes;
    };
    for (int64_t first = 0; first < tile.count; first += at_once) {
        const int64_t stop = first + at_once < tile.count ? first + at_once : tile.count;
        for (int64_t begin = 0; begin < tile.dim; begin += kPiece) {
            const int64_t count = begin + kPiece < tile.dim ? kPiece : tile.dim - begin;
            const int64_t padded = rounded_up(count, Vec::kLanes), vectors = padded / Vec::kLanes;
            for (int64_t r0 = first; r0 < stop; r0 += kGroupRows) {
                const float* rows[kGroupRows];
                for (int r = 0; r < kGroupRows; ++r) {
                    const T* const from = reinterpret_cast<const T*>(row_at(r0 + r)) + begin;
                    rows[r] = widened(from, count, reinterpret_cast<float*>(tile.scratch) + r * kPiece);
                    if (tile.squares != nullptr) tile.squares[r0 + r] += sum_of_squares(rows[r], vectors);
                    // what is read after these four pieces
                    const uint8_t* next = nullptr;
                    if (r0 + kGroupRows < stop) {
                        next = row_at(r0 + kGroupRows + r) + begin * kSize;
                    } else if (begin + kPiece < tile.dim) {
                        next = row_at(first + r) + (begin + kPiece) * kSize;
                    } else if (stop < tile.count) {
                        next = row_at(stop + r);
                    } else if (tile.ahead != nullptr) {
                        next = tile.ahead + r * tile.stride_bytes;
                    }
                    if (next != nullptr) ask_for(next, count * kSize);
                }
                const float* columns = reinterpret_cast<const float*>(tile.packed) + begin * tile.columns;
                int64_t c = 0;
                for (int64_t g = 0; g < groups.count; ++g) {
                    const int64_t width = groups.width(g);
                    score_width<kGroupColumns>(width, rows, columns, vectors, tile.dots + c * kTileRows + r0);
                    columns += width * padded;
                    c += width;
                }
            }
        }
    }
}

inline RowKernel float_row_kernel(RowFormat format) {
    if (format == RowFormat::kFloat32) return {packed_bytes, pack, score_float_rows<float>};
    if (format == RowFormat::kFloat16) return {packed_bytes, pack, score_float_rows<fp16>};
    return {packed_bytes, pack, score_float_rows<bf16>};
}

}  // namespace
}  // namespace gradsift
