// The loop nest of project_linear, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "common/sketch_row.h"
#include "project_linear/project_linear_kernel.h"

namespace gradsift {
namespace {

/// Tile of G held in registers: kRows × kVectors accumulators.
template <int kRows, int kVectors>
struct LinearTile {
    static constexpr int kCols = kVectors * Vec::kLanes;
    static_assert(32 % kCols == 0 || kCols % 32 == 0);
    static_assert(kBlockCols % kCols == 0 && kRows <= kMaxTileRows);

    /// Panels of activations, [panel][token][kCols], zeros beyond `width`, which is at most a block.
    template <class T>
    static void pack_activations(const T* from, int64_t stride, int64_t tokens, int width, float* to) {
        for (int64_t t = 0; t < tokens; ++t, from += stride) {
            float* out = to + t * kCols;
            for (int col = 0; col < width; col += kCols, out += panel_floats(tokens, kCols)) {
                for (int k = 0; k < kCols; k += Vec::kLanes) {
                    const int left = width - col - k;
                    (left > 0 ? load_up_to(from + col + k, left) : Vec::zero()).store(out + k);
                }
            }
        }
    }

    /// Panels of output gradients, [tile][token][kRows], zeros beyond `rows`.
    /// 64 rows at a time: all at once would write to as many lines in turn as there are tiles.
    template <class T>
    static void pack_output_grads(const T* from, int64_t stride, int64_t tokens, int64_t rows, float* to) {
        constexpr int64_t kRowsAtOnce = 64;
        static_assert(kRowsAtOnce % kRows == 0);
        for (int64_t begin = 0; begin < rows; begin += kRowsAtOnce) {
            const int64_t end = begin + kRowsAtOnce < rows ? begin + kRowsAtOnce : rows;
            for (int64_t t = 0; t < tokens; ++t) {
                const T* const token = from + t * stride;
                float* out = to + begin / kRows * panel_floats(tokens, kRows) + t * kRows;
                int64_t row = begin;
                for (; row + kRows <= end; row += kRows, out += panel_floats(tokens, kRows)) {
                    for (int r = 0; r < kRows; ++r) out[r] = to_float(token[row + r]);
                }
                if (row < end) {
                    for (int r = 0; r < kRows; ++r) out[r] = row + r < end ? to_float(token[row + r]) : 0.0f;
                }
            }
        }
    }

    /// tile[r][c] = Σ_t grads[t][r] · activations[t][c]. Meanwhile one line of each token of `ahead` is asked for.
    static __attribute__((noinline)) void multiply(const float* activations, const float* grads, int64_t tokens,
                                                   const char* ahead, int64_t ahead_stride, float* tile) {
        Vec sums[kRows][kVectors];
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::zero();
        }
        for (int64_t t = 0; t < tokens; ++t, activations += kCols, grads += kRows, ahead += ahead_stride) {
            __builtin_prefetch(ahead, 0, 2);
            Vec a[kVectors];
            for (int k = 0; k < kVectors; ++k) a[k] = Vec::load(activations + k * Vec::kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const Vec g = Vec::all(grads[r]);
                for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::mul_add(a[k], g, sums[r][k]);
            }
        }
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k].store(tile + r * kCols + k * Vec::kLanes);
        }
    }

    /// The moments of a tile are asked for before its loop over tokens and have come when it ends.
    static void prefetch(const MomentView& moment, int64_t at, int64_t stride, int rows) {
        if (moment.data == nullptr) return;
        const int64_t size = size_of(moment.dtype);
        const char* line = static_cast<const char*>(moment.data) + at * size;
        for (int r = 0; r < rows; ++r, line += stride * size) {
            for (int64_t byte = 0; byte < kCols * size; byte += 64) __builtin_prefetch(line + byte);
        }
    }

    template <GammaKind kKind, class T>
    static void run(const LinearSlice& slice) {
        const int64_t tokens = slice.tokens, rows = slice.row_end - slice.row_begin;
        const T* const inputs = static_cast<const T*>(slice.activations);
        const int64_t input_bytes = slice.activation_stride * static_cast<int64_t>(sizeof(T));
        float* const activations = slice.panels;
        float* const grads = activations + kBlockCols / kCols * panel_floats(tokens, kCols);
        pack_output_grads(static_cast<const T*>(slice.output_grads) + slice.row_begin, slice.output_grad_stride, tokens,
                          rows, grads);
        SquareNorms norms;
        for (int64_t block = slice.col_begin; block < slice.col_end; block += kBlockCols) {
            const int64_t left = slice.col_end - block;
            const int block_width = static_cast<int>(left < kBlockCols ? left : kBlockCols);
            pack_activations(inputs + block, slice.activation_stride, tokens, block_width, activations);
            // The next block's activations come from far away while this one is worked on, a line of each token a tile.
            const char* ahead = reinterpret_cast<const char*>(inputs + block + kBlockCols);
            const char* const ahead_end = reinterpret_cast<const char*>(inputs + slice.col_end);
            const char* const ahead_last = ahead + kBlockCols * sizeof(T);
            for (int col = 0; col < block_width; col += kCols) {
                const int width = block_width - col < kCols ? block_width - col : kCols;
                for (int64_t row = slice.row_begin; row < slice.row_end; row += kRows) {
                    const int64_t rows_left = slice.row_end - row;
                    const int height = static_cast<int>(rows_left < kRows ? rows_left : kRows);
                    const int64_t at = row * slice.cols + block + col;
                    prefetch(slice.first, at, slice.cols, height);
                    prefetch(slice.second, at, slice.cols, height);
                    alignas(64) float tile[kRows * kCols];
                    alignas(64) float mapped[kCols];
                    const float* const panel = activations + col / kCols * panel_floats(tokens, kCols);
                    const bool more = ahead < ahead_end && ahead < ahead_last;
                    multiply(panel, grads + (row - slice.row_begin) / kRows * panel_floats(tokens, kRows), tokens,
                             more ? ahead : reinterpret_cast<const char*>(panel), more ? input_bytes : 0, tile);
                    ahead += 64;
                    for (int r = 0; r < height; ++r) {
                        map_run<kKind>(tile + r * kCols, width, slice.terms, slice.first, slice.second,
                                       at + r * slice.cols, mapped, norms);
                        add_run(slice.plan, {row + r, row + r, block + col, width}, mapped, slice.sketch);
                    }
                }
            }
        }
        norms.add_to(slice.norms);
    }

    static void run(const LinearSlice& slice) {
        with_gamma(slice.terms.kind, [&]<GammaKind kKind>() {
            if (slice.dtype == Dtype::kFloat32) {
                run<kKind, float>(slice);
            } else {
                run<kKind, bf16>(slice);
            }
        });
    }
};

}  // namespace
}  // namespace gradsift
