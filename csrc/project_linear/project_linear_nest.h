// The loop nest of project_linear over tiles of G. Read by the per-ISA files after the tiles.
#pragma once
#include "common/sketch_row.h"
#include "project_linear/project_linear_kernel.h"
#include "project_linear/project_linear_tile.h"

namespace gradsift {
namespace {

/// to[c][r] = from[r][c] for kRows rows of kCols.
template <int kRows, int kCols, class V = Vec>
__attribute__((noinline)) void transpose(const float* from, float* to, int64_t to_stride) {
    if constexpr (V::kLanes == 16 && kRows % 8 == 0) {
        for (int r = 0; r < kRows; r += 8) {
            for (int c = 0; c < kCols; c += 16)
                V::transpose8(from + r * kCols + c, kCols, to + c * to_stride + r, to_stride);
        }
    } else {
        for (int c = 0; c < kCols; ++c) {
            for (int r = 0; r < kRows; ++r) to[c * to_stride + r] = from[r * kCols + c];
        }
    }
}

/// Asks for the moments of `height` rows of `width` entries, to be there when the tile before them is done.
inline void prefetch(const MomentView& moment, int64_t at, int64_t stride, int64_t height, int64_t width) {
    if (moment.data == nullptr) return;
    const int64_t size = size_of(moment.dtype);
    const char* line = static_cast<const char*>(moment.data) + at * size + kLineTail;
    for (int64_t r = 0; r < height; ++r, line += stride * size) {
        for (int64_t byte = 0; byte < width * size; byte += 64) __builtin_prefetch(line + byte, 0, 2);
    }
}

/// Lanes run along the longer side of the weight, so that the shorter side is the one that is broadcast and read again.
/// kTransposed: that is the rows; tiles of Gᵀ are then turned before Γ.
template <class Tiles, bool kTransposed>
struct LinearNest {
    using T = typename Tiles::Entry;
    static constexpr int kRows = Tiles::kRows, kCols = Tiles::kCols;

    template <GammaKind kKind>
    static void run(const LinearSlice& slice) {
        const Side<T> inputs{static_cast<const T*>(slice.activations), slice.activation_stride, slice.col_begin,
                             slice.col_end};
        const Side<T> outputs{static_cast<const T*>(slice.output_grads), slice.output_grad_stride, slice.row_begin,
                              slice.row_end};
        const Side<T>& lanes = kTransposed ? outputs : inputs;
        const Side<T>& rows = kTransposed ? inputs : outputs;
        const int64_t row_tiles = (rows.size() + kRows - 1) / kRows;
        Tiles tiles(lanes, rows, slice.tokens, slice.panels);
        SquareNorms norms;
        // What is packed of a block and what is asked for of the next one must lie in the second cache together.
        const int64_t step = slice.tokens > kLongSample ? kCols : kBlockCols;
        for (int64_t block = lanes.begin; block < lanes.end; block += step) {
            const int64_t end = at_most(block + step, lanes.end);
            tiles.take_block(block, end);
            const int64_t calls = (end - block + kCols - 1) / kCols * row_tiles;
            Lookahead ahead(lanes.data + end, lanes.stride * int64_t{sizeof(T)},
                            at_most(lanes.end - end, step) * int64_t{sizeof(T)}, calls);
            for (int64_t lane = block; lane < end; lane += kCols) {
                const int width = static_cast<int>(at_most(end - lane, kCols));
                if constexpr (kTransposed) {
                    for (int64_t col = 0; col < rows.size(); col += kBlockCols) {
                        const int64_t last = at_most(col + kBlockCols, rows.size());
                        run_turned<kKind>(slice, tiles, lane, width, rows.begin, col, last, ahead, norms);
                    }
                } else {
                    for (int64_t row = 0; row < rows.size(); row += kRows) {
                        run_tile<kKind>(slice, tiles, lane, width, row, ahead, norms);
                    }
                }
            }
        }
        norms.add_to(slice.norms);
    }

    template <GammaKind kKind>
    static void run_tile(const LinearSlice& slice, const Tiles& tiles, int64_t lane, int width, int64_t row,
                         Lookahead& ahead, SquareNorms& norms) {
        const int64_t height = at_most(slice.row_end - slice.row_begin - row, kRows);
        const Patch patch{slice.row_begin + row, lane, static_cast<int>(height), width};
        const int64_t below = row + kRows < slice.row_end - slice.row_begin ? patch.row + kRows : slice.row_begin;
        prefetch_moments(slice, below, below > patch.row ? lane : lane + kCols, kRows, kCols);
        alignas(64) float tile[kRows * kCols];
        tiles.multiply(lane, row, ahead.take(tiles.data_of(lane)), tile);
        add<kKind>(slice, patch, tile, kCols, norms);
    }

    /// Rows of the weight along lanes, columns [col, last) of it, at most a block, one tile after another.
    template <GammaKind kKind>
    static void run_turned(const LinearSlice& slice, const Tiles& tiles, int64_t lane, int height, int64_t col_begin,
                           int64_t col, int64_t last, Lookahead& ahead, SquareNorms& norms) {
        const Patch patch{lane, col_begin + col, height, static_cast<int>(last - col)};
        constexpr int64_t kUnit = kRows > Vec::kLanes ? kRows : Vec::kLanes;
        const int64_t stride = (last - col + kUnit - 1) / kUnit * kUnit;
        alignas(64) float turned[kCols * kBlockCols];
        alignas(64) float tile[kRows * kCols];
        const int64_t share = kCols / ((last - col + kRows - 1) / kRows);  // rows below, asked for with each tile
        for (int64_t at = col, below = lane + kCols; at < last; at += kRows, below += share) {
            prefetch_moments(slice, below, patch.col, share, patch.width);
            tiles.multiply(lane, at, ahead.take(tiles.data_of(lane)), tile);
            transpose<kRows, kCols>(tile, turned + (at - col), stride);
        }
        add<kKind>(slice, patch, turned, stride, norms);
    }

    static void prefetch_moments(const LinearSlice& slice, int64_t row, int64_t col, int64_t height, int64_t width) {
        const int64_t rows = at_most(slice.row_end - row, height), cols = at_most(slice.col_end - col, width);
        prefetch(slice.first, row * slice.cols + col, slice.cols, rows, cols);
        prefetch(slice.second, row * slice.cols + col, slice.cols, rows, cols);
    }

    template <GammaKind kKind>
    static void add(const LinearSlice& slice, const Patch& patch, const float* grads, int64_t stride,
                    SquareNorms& norms) {
        add_patch<kKind>(slice.plan, patch, Entries<float>{grads, stride}, slice.first, slice.second, slice.cols,
                         slice.terms, slice.sketch, norms);
    }
};

template <class Tiles>
inline void run_linear(const LinearSlice& slice) {
    const bool turned = slice.row_end - slice.row_begin > slice.col_end - slice.col_begin;
    with_gamma(slice.terms.kind, [&]<GammaKind kKind>() {
        if (turned) {
            LinearNest<Tiles, true>::template run<kKind>(slice);
        } else {
            LinearNest<Tiles, false>::template run<kKind>(slice);
        }
    });
}

/// With the tiles of the entries' type, `Tiles<T>`.
template <template <class> class Tiles>
inline void run_linear_of(const LinearSlice& slice) {
    if (slice.dtype == Dtype::kFloat32) {
        run_linear<Tiles<float>>(slice);
    } else {
        run_linear<Tiles<bf16>>(slice);
    }
}

}  // namespace
}  // namespace gradsift
