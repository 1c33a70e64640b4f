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
constexpr int64_t kMaxGroup = 8;
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
            size = 0;  // also where there is no memory for more
            floats = aligned_floats(count);
            size = count;
        }
        return floats.get();
    }
};

thread_local Scratch t_scratch;
thread_local Scratch t_sketch;

void write_norms(const SketchOutput& output, int64_t sample, const NormPair* norms, int64_t count) {
    if (!output.norms) return;
    double* const into = output.norms.row(sample);
    for (int side = 0; side < 2; ++side) {
        double sum = 0;
        for (int64_t k = 0; k < count; ++k) sum += norms[k][side];
        into[side] = output.accumulate ? into[side] + sum : sum;
    }
}

void write_sketch(const SketchOutput& output, int64_t sample, const float* partials, int64_t count) {
    float* const row = output.sketches.row(sample);
    const int64_t dim = output.sketches.cols;
    // A line at a time, so that the partials are read in vectors.
    constexpr int64_t kAtOnce = 128;
    for (int64_t begin = 0; begin < dim; begin += kAtOnce) {
        float sums[kAtOnce];
        std::copy_n(partials + begin, kAtOnce, sums);
        for (int64_t k = 1; k < count; ++k) {
            const float* const partial = partials + k * dim + begin;
            for (int64_t p = 0; p < kAtOnce; ++p) sums[p] += partial[p];
        }
        for (int64_t p = 0; p < kAtOnce; ++p) {
            const float scaled = sums[p] * output.scale;
            row[begin + p] = output.accumulate ? row[begin + p] + scaled : scaled;
        }
    }
}

}  // namespace

float* thread_scratch(int64_t count) { return t_scratch.at_least(count); }

namespace {

int64_t units(int64_t size, int64_t unit) { return (size + unit - 1) / unit; }

bool cuts_columns(Cut cut, int64_t rows, int64_t cols) {
    if (cut == Cut::kLongerSide) return cols >= rows && cols > 3 * kBlockCols;
    return units(rows, kRowUnit) < std::min(kMaxSlices, units(cols, kBlockCols));
}

}  // namespace

int64_t slice_count(Cut cut, int64_t rows, int64_t cols, int64_t entry_cost, int64_t proj_dim) {
    // A slice packs one side again and clears, writes and adds P numbers once more. At 1024 multiply-adds for each of
    // the P a layer of rank 128 by 576 ran about a tenth faster than at 512; 2048 would leave it one slice.
    const int64_t worth = 1024 * std::max<int64_t>(proj_dim, kBlockDim);
    const int64_t most = cuts_columns(cut, rows, cols) ? units(cols, kBlockCols) : units(rows, kRowUnit);
    return std::clamp<int64_t>(std::min(rows * cols * entry_cost / worth, most), 1, kMaxSlices);
}

Rect slice_rect(Cut cut, int64_t rows, int64_t cols, int64_t count, int64_t index) {
    const auto edge = [&](int64_t size, int64_t unit, int64_t at) {
        return std::min(size, units(size, unit) * at / count * unit);
    };
    if (cuts_columns(cut, rows, cols)) {
        return {0, rows, edge(cols, kBlockCols, index), edge(cols, kBlockCols, index + 1)};
    }
    return {edge(rows, kRowUnit, index), edge(rows, kRowUnit, index + 1), 0, cols};
}

namespace {

/// A task and the sample's partial sketches it fills: from `partial` on, or none.
struct PlannedTask {
    int64_t first_sample, samples, index, slices;
    int64_t partial;  // −1: one slice makes the whole sketch
};

void run_task(const PlannedTask& task, const SliceOptions& options, const SliceBody& body, const SketchOutput& output,
              float* partials, NormPair* partial_norms) {
    const int64_t dim = output.sketches.cols;
    if (task.partial >= 0) {
        SliceTask slice{task.first_sample, task.samples,
                        task.index,        partials + (task.partial + task.index) * dim,
                        task.slices * dim, partial_norms[task.partial + task.index].data(),
                        task.slices * 2};
        for (int64_t b = 0; b < task.samples; ++b) std::fill_n(slice.sketches + b * slice.sketch_stride, dim, 0.0f);
        body(slice);
        return;
    }
    std::array<NormPair, kMaxGroup> norms{};
    SliceTask slice{task.first_sample, task.samples, 0, nullptr, dim, norms[0].data(), 2};
    const bool in_place = options.in_place && output.scale == 1.0f;
    slice.sketches = in_place ? output.sketches.row(task.first_sample) : t_sketch.at_least(task.samples * dim);
    if (in_place) slice.sketch_stride = output.sketches.row_stride;
    for (int64_t b = 0; b < task.samples && !(in_place && output.accumulate); ++b) {
        std::fill_n(slice.sketches + b * slice.sketch_stride, dim, 0.0f);
    }
    body(slice);
    for (int64_t b = 0; b < task.samples; ++b) {
        if (!in_place) write_sketch(output, task.first_sample + b, slice.sketches + b * dim, 1);
        write_norms(output, task.first_sample + b, &norms[static_cast<size_t>(b)], 1);
    }
}

}  // namespace

void run_slices(int64_t samples, const std::function<int64_t(int64_t)>& slices_of, const SliceOptions& options,
                const SliceBody& body, const SketchOutput& output, int threads) {
    const int64_t dim = output.sketches.cols;
    std::vector<PlannedTask> tasks;
    std::vector<PlannedTask> split;  // samples of several slices
    // Samples are taken in batches, so that the partial sketches of a large call fit.
    for (int64_t begin = 0; begin < samples;) {
        tasks.clear();
        split.clear();
        int64_t partials = 0;
        int64_t end = begin;
        while (end < samples && (end == begin || partials * dim < kPartialFloats)) {
            const int64_t slices = slices_of(end), first = end;
            const int64_t most = slices == 1 ? kMaxGroup : kPartialFloats / (slices * dim);
            const int64_t limit = std::min(samples, first + std::clamp<int64_t>(most, 1, options.group));
            while (++end < limit && slices_of(end) == slices) {
            }
            const PlannedTask task{first, end - first, 0, slices, slices > 1 ? partials : -1};
            for (int64_t k = 0; k < slices; ++k) {
                tasks.push_back(task);
                tasks.back().index = k;
            }
            if (slices == 1) continue;
            partials += task.samples * slices;
            for (int64_t b = 0; b < task.samples; ++b) {
                split.push_back({first + b, 1, 0, slices, task.partial + b * slices});
            }
        }
        const AlignedFloats sums = partials > 0 ? aligned_floats(partials * dim) : nullptr;
        std::vector<NormPair> norms(static_cast<size_t>(partials), NormPair{0, 0});
        parallel_for(static_cast<int64_t>(tasks.size()), threads, [&](int64_t t) {
            run_task(tasks[static_cast<size_t>(t)], options, body, output, sums.get(), norms.data());
        });
        parallel_for(static_cast<int64_t>(split.size()), threads, [&](int64_t s) {
            const PlannedTask& task = split[static_cast<size_t>(s)];
            write_sketch(output, task.first_sample, sums.get() + task.partial * dim, task.slices);
            write_norms(output, task.first_sample, norms.data() + task.partial, task.slices);
        });
        begin = end;
    }
}

}  // namespace gradsift
