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
                    (left > 0 ? load_up_to<false>(from + col + k, left) : Vec::zero()).store(out + k);
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

    /// Where the tokens' parts of one panel lie: token t at data + t · stride.
    struct Panel {
        const float* data;
        int64_t stride;
    };

    /// All panels of one side: entries below `raw_count` are read where the caller has them, the rest is packed.
    struct Panels {
        const float* raw;
        int64_t raw_stride;
        int64_t raw_count;
        const float* packed;
        int64_t width;
        int64_t tokens;

        Panel at(int64_t entry) const {
            if (entry < raw_count) return {raw + entry, raw_stride};
            return {packed + entry / width * panel_floats(tokens, width), width};
        }
    };

    /// tile[r][c] = Σ_t grads[t][r] · activations[t][c]. Meanwhile one line of each token of `ahead` is asked for.
    static __attribute__((noinline)) void multiply(Panel activations, Panel grads, int64_t tokens, Panel ahead,
                                                   float* tile) {
        Vec sums[kRows][kVectors];
        for (int r = 0; r < kRows; ++r) {
            for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::zero();
        }
        for (int64_t t = 0; t < tokens; ++t) {
            __builtin_prefetch(ahead.data, 0, 2);
            Vec a[kVectors];
            for (int k = 0; k < kVectors; ++k) a[k] = Vec::load(activations.data + k * Vec::kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const Vec g = Vec::all(grads.data[r]);
                for (int k = 0; k < kVectors; ++k) sums[r][k] = Vec::mul_add(a[k], g, sums[r][k]);
            }
            activations.data += activations.stride;
            grads.data += grads.stride;
            ahead.data += ahead.stride;
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

    /// What the next packing will read, asked for a line of each token at a time. Strides count floats.
    struct Ahead {
        Panel lines;
        int64_t left;

        template <class T>
        Ahead(const T* from, int64_t count, int64_t row_stride)
            : lines{reinterpret_cast<const float*>(from), row_stride * int64_t{sizeof(T)} / int64_t{sizeof(float)}},
              left(count * int64_t{sizeof(T)}) {}

        Panel next(Panel otherwise) {
            if (left <= 0) return {otherwise.data, 0};
            const Panel line = lines;
            lines.data += 64 / sizeof(float);
            left -= 64;
            return line;
        }
    };

    static int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

    /// How many of `count` entries are read in place: whole panels of float32 that are used once or twice, for which
    /// packing costs more than it saves.
    template <class T>
    static int64_t raw_count(int64_t count, int64_t width, int64_t uses) {
        return sizeof(T) == sizeof(float) && uses <= 2 ? count / width * width : 0;
    }

    template <class T>
    static const float* as_floats(const T* from) {
        return reinterpret_cast<const float*>(from);  // read only where raw_count says that they are
    }

    template <GammaKind kKind, class T>
    static void run(const LinearSlice& slice) {
        const int64_t tokens = slice.tokens;
        const T* const inputs = static_cast<const T*>(slice.activations);
        const T* const outputs = static_cast<const T*>(slice.output_grads);
        const int64_t input_stride = slice.activation_stride, output_stride = slice.output_grad_stride;
        float* const packed_inputs = slice.panels;
        float* const packed_outputs = packed_inputs + kBlockCols / kCols * panel_floats(tokens, kCols);
        const int64_t rows = slice.row_end - slice.row_begin, cols = slice.col_end - slice.col_begin;
        const int64_t tiles = (rows + kRows - 1) / kRows, panels = (cols + kCols - 1) / kCols;
        // With one block of columns each row is needed once: output gradients are then packed a strip at a time, which
        // the cache holds. With several they are packed once and the activations a block at a time.
        const bool one_block = cols <= kBlockCols;
        const int64_t strip_rows = one_block ? kStripRows : rows;
        SquareNorms norms;
        for (int64_t strip = slice.row_begin; strip < slice.row_end; strip += strip_rows) {
            const int64_t height = at_most(slice.row_end - strip, strip_rows);
            const int64_t raw_rows = raw_count<T>(height, kRows, panels);
            pack_output_grads(outputs + strip + raw_rows, output_stride, tokens, height - raw_rows,
                              packed_outputs + raw_rows / kRows * panel_floats(tokens, kRows));
            const Panels grads{as_floats(outputs + strip), output_stride, raw_rows, packed_outputs, kRows, tokens};
            for (int64_t block = slice.col_begin; block < slice.col_end; block += kBlockCols) {
                const int64_t width = at_most(slice.col_end - block, kBlockCols);
                const int64_t raw_cols = raw_count<T>(width, kCols, tiles);
                if (!one_block || strip == slice.row_begin) {
                    pack_activations(inputs + block + raw_cols, input_stride, tokens,
                                     static_cast<int>(width - raw_cols),
                                     packed_inputs + raw_cols / kCols * panel_floats(tokens, kCols));
                }
                const Panels activations{
                    as_floats(inputs + block), input_stride, raw_cols, packed_inputs, kCols, tokens};
                const int64_t next_row = strip + height, next_col = block + width;
                const Ahead ahead =
                    one_block ? Ahead(outputs + next_row, at_most(slice.row_end - next_row, kStripRows), output_stride)
                              : Ahead(inputs + next_col, at_most(slice.col_end - next_col, kBlockCols), input_stride);
                run_block<kKind>(slice, {strip, strip, block, static_cast<int>(height), static_cast<int>(width)},
                                 activations, grads, ahead, norms);
            }
        }
        norms.add_to(slice.norms);
    }

    /// All tiles of a patch whose rows and columns are at hand.
    template <GammaKind kKind>
    static void run_block(const LinearSlice& slice, const Patch& whole, const Panels& activations, const Panels& grads,
                          Ahead ahead, SquareNorms& norms) {
        for (int col = 0; col < whole.width; col += kCols) {
            for (int row = 0; row < whole.height; row += kRows) {
                const Patch patch{whole.row + row, whole.row + row, whole.col + col,
                                  static_cast<int>(at_most(whole.height - row, kRows)),
                                  static_cast<int>(at_most(whole.width - col, kCols))};
                const int64_t at = patch.row * slice.cols + patch.col;
                prefetch(slice.first, at, slice.cols, patch.height);
                prefetch(slice.second, at, slice.cols, patch.height);
                alignas(64) float tile[kRows * kCols];
                const Panel inputs = activations.at(col);
                multiply(inputs, grads.at(row), slice.tokens, ahead.next(inputs), tile);
                add_patch<kKind>(slice.plan, patch, Entries<float>{tile, kCols}, slice.first, slice.second, slice.cols,
                                 slice.terms, slice.sketch, norms);
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
