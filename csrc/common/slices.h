#pragma once
#include <cstdint>
#include <functional>

#include "common/matrix_view.h"

namespace gradsift {

/// A part of a parameter's matrix that one thread sketches at a time.
struct Rect {
    int64_t row_begin, row_end, col_begin, col_end;
};

/// Which side of a parameter slices cut.
enum class Cut {
    kLongerSide,  // a slice of project_linear packs the other side's input again
    kRows,        // as memory runs, unless there are too few rows
};

/// How many slices a sample of `rows` × `cols` entries falls into, each entry costing about `entry_cost` multiply-adds.
/// Depends on nothing else, so that sums come out in one order for every thread count and batch split.
int64_t slice_count(Cut cut, int64_t rows, int64_t cols, int64_t entry_cost, int64_t proj_dim);

/// Slice `index` of `count`: whole blocks of columns, or groups of rows.
Rect slice_rect(Cut cut, int64_t rows, int64_t cols, int64_t count, int64_t index);

/// Where finished sketches go.
struct SketchOutput {
    MatrixView<float> sketches;  // (B, P)
    MatrixView<double> norms;    // (B, 2): ‖g‖², ‖Γ‖²; or no data
    bool accumulate = false;
    float scale = 1.0f;  // of the sketch alone
};

/// One slice of some neighbouring samples. Each sample adds to P numbers and to 2 norms of its own.
struct SliceTask {
    int64_t first_sample, samples, index;
    float* sketches;
    int64_t sketch_stride;
    double* norms;
    int64_t norm_stride;
};
using SliceBody = std::function<void(const SliceTask&)>;

struct SliceOptions {
    int64_t group = 1;      // samples a task takes at most, all of one slice count
    bool in_place = false;  // of samples in one slice: add to the output itself, for sketches that few entries reach
};

/// Runs every slice of every sample on zeroed sketches and adds each sample's in the order of slices.
void run_slices(int64_t samples, const std::function<int64_t(int64_t)>& slices_of, const SliceOptions& options,
                const SliceBody& body, const SketchOutput& output, int threads);

/// Room for `count` floats, aligned to 64 bytes, owned by the calling thread until its next call.
float* thread_scratch(int64_t count);

}  // namespace gradsift
