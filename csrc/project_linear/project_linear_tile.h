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
    static constexpr int64_t kStripRows = 64;
    static_assert(kStripRows % kRows == 0);

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
    /// A strip at a time: all at once would write to as many lines in turn as there are tiles.
    template <class T>
    static void pack_output_grads(const T* from, int64_t stride, int64_t tokens, int64_t rows, float* to) {
        for (int64_t begin = 0; begin < rows; begin += kStripRows) {
            const int64_t end = begin + kStripRows < rows ? begin + kStripRows : rows;
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

    /// Lines of 64 bytes to ask for, one of each of `tokens` rows at a time.
    struct Ahead {
        const char* line;
        const char* end;
        int64_t stride;

        template <class T>
        Ahead(const T* from, int64_t count, int64_t row_stride)
            : line(reinterpret_cast<const char*>(from)),
              end(reinterpret_cast<const char*>(from + (count > 0 ? count : 0))),
              stride(row_stride * static_cast<int64_t>(sizeof(T))) {}
    };

    template <GammaKind kKind, class T>
    static void run(const LinearSlice& slice) {
        const int64_t tokens = slice.tokens;
        const T* const inputs = static_cast<const T*>(slice.activations);
        const T* const outputs = static_cast<const T*>(slice.output_grads);
        float* const activations = slice.panels;
        float* const grads = activations + kBlockCols / kCols * panel_floats(tokens, kCols);
        // With one block of columns each row is used once: output gradients are then packed a strip at a time, which
        // the cache holds. With several they are packed once and the activations a block at a time.
        const bool one_block = slice.col_end - slice.col_begin <= kBlockCols;
        const int64_t strip_rows = one_block ? kStripRows : slice.row_end - slice.row_begin;
        SquareNorms norms;
        for (int64_t strip = slice.row_begin; strip < slice.row_end; strip += strip_rows) {
            const int64_t strip_end = strip + strip_rows < slice.row_end ? strip + strip_rows : slice.row_end;
            pack_output_grads(outputs + strip, slice.output_grad_stride, tokens, strip_end - strip, grads);
            for (int64_t block = slice.col_begin; block < slice.col_end; block += kBlockCols) {
                const int64_t left = slice.col_end - block;
                const int width = static_cast<int>(left < kBlockCols ? left : kBlockCols);
                if (!one_block || strip == slice.row_begin) {
                    pack_activations(inputs + block, slice.activation_stride, tokens, width, activations);
                }
                const int64_t rows_after = slice.row_end - strip_end;
                const Ahead ahead = one_block
                                        ? Ahead(outputs + strip_end, rows_after < kStripRows ? rows_after : kStripRows,
                                                slice.output_grad_stride)
                                        : Ahead(inputs + block + kBlockCols,
                                                left - kBlockCols < kBlockCols ? left - kBlockCols : kBlockCols,
                                                slice.activation_stride);
                run_block<kKind>(slice, strip, strip_end, block, width, activations, grads, ahead, norms);
            }
        }
        norms.add_to(slice.norms);
    }

    /// All tiles of packed rows and columns. What the next packing will read comes from far away meanwhile.
    template <GammaKind kKind>
    static void run_block(const LinearSlice& slice, int64_t row_begin, int64_t row_end, int64_t block, int block_width,
                          const float* activations, const float* grads, Ahead ahead, SquareNorms& norms) {
        const int64_t tokens = slice.tokens;
        for (int col = 0; col < block_width; col += kCols) {
            const int width = block_width - col < kCols ? block_width - col : kCols;
            const float* const inputs = activations + col / kCols * panel_floats(tokens, kCols);
            for (int64_t row = row_begin; row < row_end; row += kRows) {
                const int height = static_cast<int>(row_end - row < kRows ? row_end - row : kRows);
                const Patch patch{row, row, block + col, height, width};
                prefetch(slice.first, row * slice.cols + patch.col, slice.cols, height);
                prefetch(slice.second, row * slice.cols + patch.col, slice.cols, height);
                const bool more = ahead.line < ahead.end;
                alignas(64) float tile[kRows * kCols];
                multiply(inputs, grads + (row - row_begin) / kRows * panel_floats(tokens, kRows), tokens,
                         more ? ahead.line : reinterpret_cast<const char*>(inputs), more ? ahead.stride : 0, tile);
                ahead.line += 64;
                map_patch<kKind>(tile, kCols, patch, slice.terms, slice.first, slice.second, slice.cols, tile, kCols,
                                 norms);
                add_patch(slice.plan, patch, tile, kCols, slice.sketch);
            }
        }
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
