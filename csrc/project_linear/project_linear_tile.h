// How project_linear forms a tile of G over float32 sums. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "common/sketch_row.h"
#include "project_linear/project_linear_kernel.h"

namespace gradsift {
namespace {

inline int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

constexpr int64_t kLongSample = 512;  // tokens; columns of longer ones are packed a panel at a time

/// One factor of G: entries [begin, end) of each token's vector.
template <class T>
struct Side {
    const T* data;  // of the first token
    int64_t stride;
    int64_t begin, end;

    int64_t size() const { return end - begin; }
};

/// Whether the lines at `stride` of many tokens share too few sets of a cache of 2,048 sets and 8 ways (1 MB).
template <class T>
inline bool crowds_cache(const Side<T>& side, int64_t tokens) {
    const int64_t lines = side.stride * int64_t{sizeof(T)} / 64;
    if (lines == 0) return false;                            // tokens lie in one stretch of memory
    const int64_t power = (lines | 2048) & -(lines | 2048);  // the largest power of two that divides both
    return tokens > 4 * (2048 / power);
}

/// Where to point into a line to be asked for, so that entries that are not aligned to lines are all asked for: each
/// stretch of 64 bytes by its end, since its beginning came with the stretch before.
constexpr int64_t kLineTail = 60;

/// Lines that are to be asked for while something else is computed, one or two of each token at a time.
struct Ahead {
    const char* data;
    int64_t stride = 0;  // 0: nothing is left, and the same line is asked for again
    int64_t second = 0;  // from one line of a token to the next that is asked for with it
};

/// Which lines the next block of lanes will need, handed out a call at a time.
class Lookahead {
  public:
    /// `bytes` of each token from `data` on, over `calls` calls.
    Lookahead(const void* data, int64_t stride, int64_t bytes, int64_t calls)
        : next_{static_cast<const char*>(data) + kLineTail, stride, calls * 64 < bytes ? 64 : 0}, left_(bytes) {}

    Ahead take(const void* otherwise) {
        if (left_ <= 0) return {static_cast<const char*>(otherwise)};
        const Ahead lines = next_;
        next_.data += 64 + next_.second;
        left_ -= 64 + next_.second;
        return lines;
    }

  private:
    Ahead next_;
    int64_t left_;
};

/// Tiles of kRows × kCols with lanes along one factor of G and broadcasts from the other.
template <class T, int kTileRows, int kVectors>
class FloatTiles {
  public:
    using Entry = T;
    static constexpr int kRows = kTileRows;
    static constexpr int kCols = kVectors * Vec::kLanes;
    static_assert(kBlockCols % kCols == 0 && kBlockCols % kRows == 0 && kRows <= kMaxTileRows);

    FloatTiles(const Side<T>& lanes, const Side<T>& rows, int64_t tokens, float* room)
        : lanes_(lanes), rows_(rows), tokens_(tokens) {
        packed_lanes_ = room;
        packed_rows_ = room + kBlockCols / kCols * panel_floats(tokens, kCols);
        // Panels of float32 are read where they are, unless strides or length keep them out of the caches and they
        // are used often enough to pay for the copy.
        const bool in_place = sizeof(T) == sizeof(float);
        const int64_t row_tiles = (rows.size() + kRows - 1) / kRows, panels = (lanes.size() + kCols - 1) / kCols;
        const bool lanes_raw = in_place && (row_tiles <= 2 || !(tokens > kLongSample || crowds_cache(lanes, tokens)));
        const bool rows_raw = in_place && (panels <= 2 || !(tokens > kLongSample || crowds_cache(rows, tokens)));
        raw_lanes_ = lanes_raw ? lanes.begin + lanes.size() / kCols * kCols : lanes.begin;
        raw_rows_ = rows_raw ? rows.size() / kRows * kRows : 0;
        pack_rows();
    }

    /// Makes lanes [begin, end), at most a block, ready.
    void take_block(int64_t begin, int64_t end) {
        block_ = begin;
        const int64_t first = begin < raw_lanes_ ? at_most(end, raw_lanes_) : begin;
        if (first < end) pack_lanes(first, static_cast<int>(end - first));
    }

    /// tile[r][c] = Σ_t rows[t][row + r] · lanes[t][lane + c], zeros beyond the sides; `row` counts from rows.begin.
    void multiply(int64_t lane, int64_t row, Ahead ahead, float* tile) const {
        multiply(lanes_at(lane), rows_at(row), tokens_, ahead, tile);
    }

    const void* data_of(int64_t lane) const { return lanes_at(lane).data; }

  private:
    static constexpr int64_t kStripRows = 64;   // packed at once: more would write to as many lines in turn as tiles
    static constexpr int64_t kTokensAhead = 6;  // that packing asks for before it reads them
    static_assert(kStripRows % kRows == 0);

    /// Where the tokens' parts of one panel lie: token t at data + t · stride.
    struct Panel {
        const float* data;
        int64_t stride;
    };

    static const float* as_floats(const T* from) {
        return reinterpret_cast<const float*>(from);  // read only where they are floats
    }

    Panel lanes_at(int64_t lane) const {
        if (lane < raw_lanes_) return {as_floats(lanes_.data + lane), lanes_.stride};
        return {packed_lanes_ + (lane - block_) / kCols * panel_floats(tokens_, kCols), kCols};
    }
    Panel rows_at(int64_t row) const {
        if (row < raw_rows_) return {as_floats(rows_.data + rows_.begin + row), rows_.stride};
        return {packed_rows_ + row / kRows * panel_floats(tokens_, kRows), kRows};
    }

    /// Panels [panel][token][kCols], zeros beyond `width`.
    void pack_lanes(int64_t first, int width) {
        const T* from = lanes_.data + first;
        float* const to = packed_lanes_ + (first - block_) / kCols * panel_floats(tokens_, kCols);
        for (int64_t t = 0; t < tokens_; ++t, from += lanes_.stride) {
            const T* const later = from + kTokensAhead * lanes_.stride;
            for (int col = 0; col < width; col += 64 / int{sizeof(T)}) __builtin_prefetch(later + col);
            float* out = to + t * kCols;
            for (int col = 0; col < width; col += kCols, out += panel_floats(tokens_, kCols)) {
                for (int k = 0; k < kCols; k += Vec::kLanes) {
                    const int left = width - col - k;
                    (left > 0 ? load_up_to<false>(from + col + k, left) : Vec::zero()).store(out + k);
                }
            }
        }
    }

    /// Panels [tile][token][kRows] of the rows that are not read in place, zeros beyond the last.
    void pack_rows() {
        for (int64_t begin = raw_rows_; begin < rows_.size(); begin += kStripRows) {
            const int64_t end = at_most(begin + kStripRows, rows_.size());
            for (int64_t t = 0; t < tokens_; ++t) {
                const T* const token = rows_.data + t * rows_.stride + rows_.begin;
                float* out = packed_rows_ + begin / kRows * panel_floats(tokens_, kRows) + t * kRows;
                int64_t row = begin;
                for (; row + kRows <= end; row += kRows, out += panel_floats(tokens_, kRows)) {
                    for (int r = 0; r < kRows; ++r) out[r] = to_float(token[row + r]);
                }
                if (row < end) {
                    for (int r = 0; r < kRows; ++r) out[r] = row + r < end ? to_float(token[row + r]) : 0.0f;
                }
            }
        }
    }

    static __attribute__((noinline)) void multiply(Panel lanes, Panel rows, int64_t tokens, Ahead ahead, float* tile) {
        Vec sums[kRows][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::zero();
        }
        for (int64_t t = 0; t < tokens; ++t) {
            __builtin_prefetch(ahead.data, 0, 2);
            __builtin_prefetch(ahead.data + ahead.second, 0, 2);
            Vec a[kVectors];
            for (int k = 0; k < kVectors; ++k) a[k] = Vec::load(lanes.data + k * Vec::kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const Vec g = Vec::all(rows.data[r]);
                for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::mul_add(a[k], g, sums[r][k]);
            }
            lanes.data += lanes.stride;
            rows.data += rows.stride;
            ahead.data += ahead.stride;
        }
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k].store(tile + r * kCols + k * Vec::kLanes);
        }
    }

    const Side<T> lanes_, rows_;
    const int64_t tokens_;
    float* packed_lanes_;
    float* packed_rows_;
    int64_t raw_lanes_, raw_rows_;  // entries before these are read in place
    int64_t block_ = 0;
};

}  // namespace
}  // namespace gradsift
