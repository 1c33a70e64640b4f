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

    /// to[panel][token][kCols] = activations[token, col …], zeros beyond `width`; `width` is at most a block.
    template <class T>
    static void pack_activations(const T* from, int64_t stride, int64_t tokens, int width, float* to) {
        for (int64_t t = 0; t < tokens; ++t, from += stride) {
            float* out = to + t * kCols;
            for (int col = 0; col < width; col += kCols, out += tokens * kCols) {
                for (int k = 0; k < kCols; k += Vec::kLanes) {
                    const int left = width - col - k;
                    (left > 0 ? load_up_to(from + col + k, left) : Vec::zero()).store(out + k);
                }
            }
        }
    }

    /// to[tile][token][kRows] = output_grads[token, row …], zeros beyond `rows`.
    template <class T>
    static void pack_output_grads(const T* from, int64_t stride, int64_t tokens, int64_t rows, float* to) {
        for (int64_t t = 0; t < tokens; ++t, from += stride) {
            float* out = to + t * kRows;
            int64_t row = 0;
            for (; row + kRows <= rows; row += kRows, out += tokens * kRows) {
                for (int r = 0; r < kRows; ++r) out[r] = to_float(from[row + r]);
            }
            if (row < rows) {
                for (int r = 0; r < kRows; ++r) out[r] = row + r < rows ? to_float(from[row + r]) : 0.0f;
            }
        }
    }

    /// tile[r][c] = Σ_t grads[t][r] · activations[t][c].
    static __attribute__((noinline)) void multiply(const float* activations, const float* grads, int64_t tokens,
                                                   float* tile) {
        Vec sums[kRows][kVectors];
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::zero();
        }
        for (int64_t t = 0; t < tokens; ++t, activations += kCols, grads += kRows) {
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
        float* const activations = slice.panels;
        float* const grads = activations + tokens * kBlockCols;
        pack_output_grads(static_cast<const T*>(slice.output_grads) + slice.row_begin, slice.output_grad_stride,
                          tokens, rows, grads);
        SquareNorms norms;
        for (int64_t block = slice.col_begin; block < slice.col_end; block += kBlockCols) {
            const int64_t left = slice.col_end - block;
            const int block_width = static_cast<int>(left < kBlockCols ? left : kBlockCols);
            pack_activations(static_cast<const T*>(slice.activations) + block, slice.activation_stride, tokens,
                             block_width, activations);
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
                    multiply(activations + col * tokens, grads + (row - slice.row_begin) * tokens, tokens, tile);
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
