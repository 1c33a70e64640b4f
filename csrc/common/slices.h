#pragma once
#include <cstdint>
#include <functional>

#include "common/matrix_view.h"

namespace gradsift {

/// A part of a parameter's matrix that one thread sketches at a time.
struct Rect {
    int64_t row_begin, row_end, col_begin, col_end;
};

/// How many slices a sample of `rows` × `cols` entries falls into, each entry costing about `entry_cost` multiply-adds.
/// Depends on nothing else, so that sums come out in one order for every thread count and batch split.
int64_t slice_count(int64_t rows, int64_t cols, int64_t entry_cost, int64_t proj_dim);

/// Slice `index` of `count`: whole blocks of columns, or groups of rows, whichever side is longer.
Rect slice_rect(int64_t rows, int64_t cols, int64_t count, int64_t index);

/// Where finished sketches go.
struct SketchOutput {
    MatrixView<float> sketches;  // (B, P)
    MatrixView<double> norms;    // (B, 2): ‖g‖², ‖Γ‖²; or no data
    bool accumulate = false;
    float scale = 1.0f;  // of the sketch alone
};

/// Adds slice `index` of sample `sample` to `sketch` (P numbers) and `norms` (2 numbers).
using SliceBody = std::function<void(int64_t sample, int64_t index, float* sketch, double* norms)>;

/// Runs every slice of every sample on a zeroed sketch of its own and adds each sample's in the order of slices.
void run_slices(int64_t samples, const std::function<int64_t(int64_t)>& slices_of, const SliceBody& body,
                const SketchOutput& output, int threads);

/// Room for `count` floats, aligned to 64 bytes, owned by the calling thread until its next call.
float* thread_scratch(int64_t count);

}  // namespace gradsift
