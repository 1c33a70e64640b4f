#include "common/slices.h"

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <vector>

#include "common/parallel.h"
#include "common/projection.h"

namespace gradsift {
namespace {

constexpr int64_t kMaxSlices = 16;
constexpr int64_t kRowUnit = 16;  // a multiple of every kernel's tile height
constexpr int64_t kPartialFloats = int64_t{1} << 22;

struct AlignedDelete {
    void operator()(float* block) const { ::operator delete[](block, std::align_val_t{64}); }
};
using AlignedFloats = std::unique_ptr<float[], AlignedDelete>;

AlignedFloats aligned_floats(int64_t count) {
    return AlignedFloats(
        static_cast<float*>(::operator new[](static_cast<size_t>(count) * sizeof(float), std::align_val_t{64})));
}

using NormPair = std::array<double, 2>;

struct Scratch {
    AlignedFloats floats;
    int64_t size = 0;

    float* at_least(int64_t count) {
        if (count > size) {
            floats.reset();
            floats = aligned_floats(count);
            size = count;
        }
        return floats.get();
    }
};

thread_local Scratch t_scratch;
thread_local Scratch t_sketch;

void write_sample(const SketchOutput& output, int64_t sample, const float* partials, const NormPair* norms,
                  int64_t count) {
    float* const row = output.sketches.row(sample);
    const int64_t dim = output.sketches.cols;
    for (int64_t p = 0; p < dim; ++p) {
        float sum = partials[p];
        for (int64_t k = 1; k < count; ++k) sum += partials[k * dim + p];
        row[p] = output.accumulate ? row[p] + sum * output.scale : sum * output.scale;
    }
    if (!output.norms) return;
    double* const into = output.norms.row(sample);
    for (int side = 0; side < 2; ++side) {
        double sum = 0;
        for (int64_t k = 0; k < count; ++k) sum += norms[k][side];
        into[side] = output.accumulate ? into[side] + sum : sum;
    }
}

}  // namespace

float* thread_scratch(int64_t count) { return t_scratch.at_least(count); }

namespace {

// Slices of project_linear pack the other side's input again, so the longer side is cut, if it has pieces to cut.
bool cuts_columns(int64_t rows, int64_t cols) { return cols >= rows && cols > 3 * kBlockCols; }

int64_t units(int64_t size, int64_t unit) { return (size + unit - 1) / unit; }

}  // namespace

int64_t slice_count(int64_t rows, int64_t cols, int64_t entry_cost, int64_t proj_dim) {
    // A slice packs one side again and clears, writes and adds P numbers once more. At 1024 multiply-adds for each of
    // the P a layer of rank 128 by 576 ran about a tenth faster than at 512; 2048 would leave it one slice.
    const int64_t worth = 1024 * std::max<int64_t>(proj_dim, kBlockDim);
    const int64_t most = cuts_columns(rows, cols) ? units(cols, kBlockCols) : units(rows, kRowUnit);
    return std::clamp<int64_t>(std::min(rows * cols * entry_cost / worth, most), 1, kMaxSlices);
}

Rect slice_rect(int64_t rows, int64_t cols, int64_t count, int64_t index) {
    const auto edge = [&](int64_t size, int64_t unit, int64_t at) {
        return std::min(size, units(size, unit) * at / count * unit);
    };
    if (cuts_columns(rows, cols)) {
        return {0, rows, edge(cols, kBlockCols, index), edge(cols, kBlockCols, index + 1)};
    }
    return {edge(rows, kRowUnit, index), edge(rows, kRowUnit, index + 1), 0, cols};
}

void run_slices(int64_t samples, const std::function<int64_t(int64_t)>& slices_of, const SliceBody& body,
                const SketchOutput& output, int threads) {
    const int64_t dim = output.sketches.cols;
    struct Task {
        int64_t sample, index, count, first;  // first: the sample's first partial, −1 if it needs none
    };
    std::vector<Task> tasks;
    std::vector<int64_t> split;  // tasks that begin a sample of several slices
    // Samples are taken in groups, so that the partial sketches of a large batch fit.
    for (int64_t begin = 0; begin < samples;) {
        tasks.clear();
        split.clear();
        int64_t partials = 0;
        int64_t end = begin;
        for (; end < samples && (end == begin || partials * dim < kPartialFloats); ++end) {
            const int64_t count = slices_of(end);
            const int64_t first = count > 1 ? partials : -1;
            if (count > 1) {
                split.push_back(static_cast<int64_t>(tasks.size()));
                partials += count;
            }
            for (int64_t k = 0; k < count; ++k) tasks.push_back({end, k, count, first});
        }
        const AlignedFloats sums = partials > 0 ? aligned_floats(partials * dim) : nullptr;
        std::vector<NormPair> norms(static_cast<size_t>(partials), NormPair{0, 0});
        parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t t) {
            const Task& task = tasks[static_cast<size_t>(t)];
            const bool whole = task.first < 0;
            float* const sketch = whole ? t_sketch.at_least(dim) : sums.get() + (task.first + task.index) * dim;
            NormPair own{0, 0};
            std::fill_n(sketch, dim, 0.0f);
            NormPair& pair = whole ? own : norms[static_cast<size_t>(task.first + task.index)];
            body(task.sample, task.index, sketch, pair.data());
            if (whole) write_sample(output, task.sample, sketch, &own, 1);
        });
        parallel_for(static_cast<int64_t>(split.size()), threads, [&](int64_t s) {
            const Task& task = tasks[static_cast<size_t>(split[static_cast<size_t>(s)])];
            write_sample(output, task.sample, sums.get() + task.first * dim, norms.data() + task.first, task.count);
        });
        begin = end;
    }
}

}  // namespace gradsift
