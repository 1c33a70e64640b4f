// A tile of rows against packed columns: how float rows and bfloat16 rows are walked, multiplied and packed. Read by
// per-ISA files alone.
//
// `Rows` is what a file brings: Stored, the type of a row's numbers; Number, that of both sides of a product; X, a
// vector of kLanes Numbers; Sum, a vector of sums; kPlanes, how many vectors of a column meet one of a row;
// kGroupColumns, columns whose sums stay in registers with four rows'; and widen(), load(), store(), split(), zero(),
// mul_add(), add_sums4().
#pragma once
#include "common/dtype.h"
#include "score_rows/row_kernel.h"

namespace gradsift {
namespace {

constexpr int kGroupRows = 4;
// Of a row at a time. Four rows, those that are asked for meanwhile and the columns of a group share the first-level
// cache: rows are often a multiple of 4 KiB apart, where twice this would put a row and what follows it into one set. A
// row's sum over each piece is formed in registers, and the pieces are added in order.
constexpr int64_t kPieceBytes = 2048;
// Packs up to this size stay in the second-level cache whole, and rows are then read from end to end.
constexpr int64_t kCachedPackBytes = 384 << 10;

inline int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/// Columns in as few groups as can be, of sizes that differ by one at most. ‖row‖² stands for one more column, the
/// first: the row itself.
struct Groups {
    int64_t count, size, larger;
    Groups(int64_t columns, int64_t at_most)
        : count((columns + 1 + at_most - 1) / at_most), size((columns + 1) / count), larger((columns + 1) % count) {}
    /// Columns without the row.
    int64_t width(int64_t group) const { return size + (group < larger ? 1 : 0) - (group == 0 ? 1 : 0); }
};

template <class Rows>
constexpr int64_t kPiece = kPieceBytes / static_cast<int64_t>(sizeof(typename Rows::Number));

template <class Rows>
int64_t packed_bytes(int64_t columns, int64_t dim) {
    constexpr int64_t kSize = sizeof(typename Rows::Number);
    return kSize * Rows::kPlanes * columns * rounded_up(dim, Rows::kLanes);
}

/// Piece by piece, group by group, vector by vector, column by column, plane by plane; zeros to the end of a vector.
template <class Rows>
int pack(const PackColumns& call, uint8_t* packed) {
    const Groups groups(call.columns, Rows::kGroupColumns);
    auto* to = reinterpret_cast<typename Rows::Number*>(packed);
    for (int64_t begin = 0; begin < call.dim; begin += kPiece<Rows>) {
        const int64_t end = begin + kPiece<Rows> < call.dim ? begin + kPiece<Rows> : call.dim;
        int64_t first = 0;
        for (int64_t g = 0; g < groups.count; ++g) {
            const int64_t width = groups.width(g);
            for (int64_t k = begin; k < end; k += Rows::kLanes) {
                for (int64_t c = first; c < first + width; ++c) {
                    const float* const from = call.targets + c * call.stride + k;
                    for (int64_t l = 0; l < Rows::kLanes; ++l) Rows::split(k + l < end ? from[l] : 0.0f, to + l);
                    to += Rows::kPlanes * Rows::kLanes;
                }
            }
            first += width;
        }
    }
    return Rows::kPlanes;
}

/// One group of columns over one piece of four rows.
template <class Rows>
struct GroupCall {
    const typename Rows::Stored* stored[kGroupRows];  // whole vectors
    typename Rows::Number* rows[kGroupRows];          // the same, widened by the first group
    const typename Rows::Number* columns;
    int64_t vectors;
    float* dots;                       // += of column c and row r at [c · kTileRows + r]
    float* squares;                    // += of row r at [r]
    const uint8_t* ahead[kGroupRows];  // of rows that are read later, what this group asks for
};

/// kFirst: the group that reads the rows as stored and forms their squares. kAsks: how many rows of `ahead` there are.
template <class Rows, int kColumns, bool kFirst, int kAsks>
void score_group(const GroupCall<Rows>& call) {
    constexpr int64_t kLanes = Rows::kLanes;
    constexpr int64_t kStep = kLanes * static_cast<int64_t>(sizeof(typename Rows::Stored));
    constexpr bool kWidens = sizeof(typename Rows::Stored) != sizeof(typename Rows::Number);
    constexpr int kSums = kColumns + (kFirst ? 1 : 0);
    typename Rows::Sum sums[kSums][kGroupRows];
    for (int c = 0; c < kSums; ++c) {
        for (int r = 0; r < kGroupRows; ++r) sums[c][r] = Rows::zero();
    }
    for (int64_t v = 0; v < call.vectors; ++v) {
        if (kStep >= 64 || v % (64 / kStep) == 0) {
            for (int r = 0; r < kAsks; ++r) __builtin_prefetch(call.ahead[r] + v * kStep, 0, 2);
        }
        typename Rows::X x[kGroupRows];
        for (int r = 0; r < kGroupRows; ++r) {
            if constexpr (kFirst) {
                x[r] = Rows::widen(call.stored[r] + v * kLanes);
                if constexpr (kWidens) Rows::store(call.rows[r] + v * kLanes, x[r]);
                sums[kColumns][r] = Rows::mul_add(x[r], x[r], sums[kColumns][r]);
            } else {
                x[r] = Rows::load(call.rows[r] + v * kLanes);
            }
        }
        for (int plane = 0; plane < Rows::kPlanes; ++plane) {
            for (int c = 0; c < kColumns; ++c) {
                const typename Rows::X y =
                    Rows::load(call.columns + ((v * kColumns + c) * Rows::kPlanes + plane) * kLanes);
                for (int r = 0; r < kGroupRows; ++r) sums[c][r] = Rows::mul_add(x[r], y, sums[c][r]);
            }
        }
    }
    for (int c = 0; c < kColumns; ++c) Rows::add_sums4(sums[c], call.dots + c * kTileRows);
    if constexpr (kFirst) Rows::add_sums4(sums[kColumns], call.squares);
}

template <class Rows, int kColumns, bool kFirst, int kAsks>
void score_width(int64_t width, const GroupCall<Rows>& call) {
    if constexpr (kColumns > (kFirst ? 0 : 1)) {
        if (width < kColumns) return score_width<Rows, kColumns - 1, kFirst, kAsks>(width, call);
    }
    score_group<Rows, kColumns, kFirst, kAsks>(call);
}

template <class Rows, bool kFirst>
void score_asking(int64_t width, int asks, const GroupCall<Rows>& call) {
    constexpr int kMost = Rows::kGroupColumns - (kFirst ? 1 : 0);
    if (asks == 0) return score_width<Rows, kMost, kFirst, 0>(width, call);
    if (asks == 1) return score_width<Rows, kMost, kFirst, 1>(width, call);
    if (asks == 2) return score_width<Rows, kMost, kFirst, 2>(width, call);
    score_width<Rows, kMost, kFirst, 4>(width, call);
}

/// Where row r of the tile is; the last one stands in for those that a group lacks.
inline const uint8_t* row_of(const ScoreTile& tile, int64_t r) {
    return tile.rows + (r < tile.count ? r : tile.count - 1) * tile.stride_bytes;
}

/// Rows first … stop − 1 of a tile, which are read piece by piece.
template <class Rows>
void score_stripe(const ScoreTile& tile, const Groups& groups, int64_t first, int64_t stop) {
    using Stored = typename Rows::Stored;
    constexpr int64_t kSize = sizeof(Stored), kLength = kPiece<Rows>;
    for (int64_t begin = 0; begin < tile.dim; begin += kLength) {
        const int64_t count = begin + kLength < tile.dim ? kLength : tile.dim - begin;
        const int64_t padded = rounded_up(count, Rows::kLanes);
        for (int64_t r0 = first; r0 < stop; r0 += kGroupRows) {
            GroupCall<Rows> call{};
            call.vectors = padded / Rows::kLanes;
            call.squares = tile.squares + r0;
            call.columns =
                reinterpret_cast<const typename Rows::Number*>(tile.packed) + Rows::kPlanes * begin * tile.columns;
            const uint8_t* ahead[kGroupRows] = {};
            for (int r = 0; r < kGroupRows; ++r) {
                const auto* const row = reinterpret_cast<const Stored*>(row_of(tile, r0 + r)) + begin;
                call.stored[r] = row;
                if (count != padded) {
                    auto* const copy = reinterpret_cast<Stored*>(tile.scratch) + r * kLength;
                    __builtin_memset(copy + padded - Rows::kLanes, 0, Rows::kLanes * kSize);
                    __builtin_memcpy(copy, row, static_cast<size_t>(count * kSize));
                    call.stored[r] = copy;
                }
                if constexpr (sizeof(Stored) == sizeof(typename Rows::Number)) {
                    call.rows[r] = const_cast<Stored*>(call.stored[r]);
                } else {
                    call.rows[r] = reinterpret_cast<typename Rows::Number*>(tile.scratch) + (kGroupRows + r) * kLength;
                }
                if (r0 + kGroupRows < stop) {
                    ahead[r] = row_of(tile, r0 + kGroupRows + r) + begin * kSize;
                } else if (stop - first > kGroupRows && begin + kLength < tile.dim) {
                    ahead[r] = row_of(tile, first + r) + (begin + kLength) * kSize;
                } else if (stop < tile.count || tile.ahead != nullptr) {
                    const uint8_t* const next = stop < tile.count ? row_of(tile, stop) : tile.ahead;
                    const int64_t q = begin / kLength * kGroupRows + r, pieces = (tile.dim + kLength - 1) / kLength;
                    ahead[r] = next + q / pieces * tile.stride_bytes + q % pieces * kLength * kSize;
                }
            }
            int64_t c = 0;
            for (int64_t g = 0, asked = 0; g < groups.count; ++g) {
                // spread over the groups
                int64_t asks = 0;
                if (ahead[0] != nullptr && asked < kGroupRows) {
                    asks = groups.count == 1 ? 4 : groups.count == 2 || (groups.count == 3 && g == 0) ? 2 : 1;
                }
                for (int64_t r = 0; r < asks; ++r) call.ahead[r] = ahead[asked + r];
                asked += asks;
                const int64_t width = groups.width(g);
                call.dots = tile.dots + c * kTileRows + r0;
                if (g == 0) {
                    score_asking<Rows, true>(width, static_cast<int>(asks), call);
                } else {
                    score_asking<Rows, false>(width, static_cast<int>(asks), call);
                }
                call.columns += Rows::kPlanes * width * padded;
                c += width;
            }
        }
    }
}

template <class Rows>
void score_tile(const ScoreTile& tile) {
    const int64_t padded_rows = rounded_up(tile.count, kGroupRows);
    for (int64_t c = 0; c < tile.columns; ++c) {
        for (int64_t r = 0; r < padded_rows; ++r) tile.dots[c * kTileRows + r] = 0.0f;
    }
    for (int64_t r = 0; r < padded_rows; ++r) tile.squares[r] = 0.0f;
    const Groups groups(tile.columns, Rows::kGroupColumns);
    const bool cached = packed_bytes<Rows>(tile.columns, tile.dim) <= kCachedPackBytes;
    const int64_t at_once = cached ? kGroupRows : kTileRows;
    for (int64_t first = 0; first < tile.count; first += at_once) {
        score_stripe<Rows>(tile, groups, first, first + at_once < tile.count ? first + at_once : tile.count);
    }
}

template <class Rows>
RowKernel row_kernel() {
    return {packed_bytes<Rows>, pack<Rows>, score_tile<Rows>};
}

}  // namespace
}  // namespace gradsift
