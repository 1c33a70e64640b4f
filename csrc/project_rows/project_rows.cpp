#include "project_rows/project_rows.h"

#include <algorithm>
#include <array>

#include "common/check.h"
#include "common/isa_table.h"
#include "common/preconditions.h"
#include "common/slices.h"
#include "project_rows/project_rows_kernel.h"

namespace gradsift {
namespace {

constexpr IsaTable<ProjectRowsFn> kTable = {
    .scalar = project_rows_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = project_rows_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = project_rows_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = project_rows_avx512,
#endif
};

void check(const ProjectRows& call) {
    check_projection(call.projection);
    check_gamma(call.gamma);
    check_output(call.sketches, call.norms, call.projection.proj_dim, call.threads);
    check_moments(call.gamma.kind, call.first, call.second);
    check_rows("grads", call.grads);
    require(call.rows >= 0, "shape: expected a count of rows >= 0, got ", call.rows);
    require((call.row_ids == nullptr) == (call.cu_seqlens == nullptr),
            "row_ids: expected together with cu_seqlens or not at all");
    if (call.cu_seqlens == nullptr) return;
    check_offsets(call.cu_seqlens, call.sketches.rows);
    for (int64_t k = 0; k < call.cu_seqlens[call.sketches.rows]; ++k) {
        require(call.row_ids[k] >= 0 && call.row_ids[k] < call.rows, "row_ids: expected 0 to ", call.rows - 1, ", got ",
                call.row_ids[k], " at position ", k);
    }
}

// An entry is worth as many multiply-adds: with 64, a slice of a sketch of 8192 numbers has 131,072 entries, which
// take ten times as long as clearing and adding up its partial sketch.
constexpr int64_t kEntryCost = 64;

// Entries worth waking another thread for.
constexpr int64_t kThreadEntries = int64_t{1} << 16;

// Sketches that stay in the second cache while a panel's samples take turns.
constexpr int64_t kGroupFloats = int64_t{1} << 16;

/// One slice of one call, in panels: signs and masks of a panel are drawn once for all samples of the task, and its
/// moments are read from memory once.
class PanelLoop {
  public:
    PanelLoop(const ProjectRows& call, const GammaTerms& terms) : call_(call) {
        slice_.dtype = call.grads.dtype;
        slice_.row_stride = call.grads.row_stride;
        slice_.cols = call.grads.cols;
        slice_.plan = sketch_plan(call.projection, call.param_id, call.grads.cols);
        slice_.terms = terms;
        slice_.first = reads_first_moment(terms.kind) ? call.first : MomentView{};
        slice_.second = reads_second_moment(terms.kind) ? call.second : MomentView{};
    }

    void operator()(const SliceTask& task, const Rect& rect, ProjectRowsFn kernel) const {
        if (rect.row_begin == rect.row_end || rect.col_begin == rect.col_end) return;
        const int64_t wide = std::min(blocks(rect), kPanelRuns), tall = kPanelRuns / wide;
        const auto at = [&](int64_t row, int64_t col) {
            return Rect{row, std::min(rect.row_end, row + tall), col, std::min(rect.col_end, col + wide * kBlockCols)};
        };
        for (Rect panel = at(rect.row_begin, rect.col_begin); panel.row_begin < rect.row_end;) {
            const bool wraps = panel.col_end == rect.col_end;
            const Rect next = wraps ? at(panel.row_end, rect.col_begin) : at(panel.row_begin, panel.col_end);
            run_panel(task, kernel, panel, next.row_begin < rect.row_end ? &next : nullptr);
            panel = next;
        }
    }

  private:
    static int64_t blocks(const Rect& rect) { return (rect.col_end - rect.col_begin + kBlockCols - 1) / kBlockCols; }

    /// The sample's entry where a panel begins.
    const void* grads_at(int64_t sample, const Rect& panel) const {
        const int64_t listed = call_.cu_seqlens != nullptr ? call_.cu_seqlens[sample] : 0;
        const void* const row = call_.grads.row(sample, listed + panel.row_begin);
        return static_cast<const char*>(row) + panel.col_begin * size_of(call_.grads.dtype);
    }

    const void* moments_at(const MomentView& moment, const Rect* panel) const {
        if (moment.data == nullptr || panel == nullptr || call_.row_ids != nullptr) return nullptr;
        const int64_t entry = panel->row_begin * call_.grads.cols + panel->col_begin;
        return static_cast<const char*>(moment.data) + entry * size_of(moment.dtype);
    }

    void run_panel(const SliceTask& task, ProjectRowsFn kernel, const Rect& panel, const Rect* next) const {
        RowsSlice slice = slice_;
        if (call_.row_ids != nullptr) {
            slice.row_ids = call_.row_ids + call_.cu_seqlens[task.first_sample] + panel.row_begin;
        }
        slice.row_begin = panel.row_begin;
        slice.height = panel.row_end - panel.row_begin;
        slice.col_begin = panel.col_begin;
        slice.width = panel.col_end - panel.col_begin;
        std::array<uint32_t[4], kPanelRuns * kMaxNonzeros> signs;
        std::array<uint32_t, kPanelRuns * kMaxNonzeros> masks;
        if (slice.plan.kind == ProjectionKind::kXor) {
            draw_blocks(call_.projection, call_.param_id, {slice.row_ids, slice.row_begin, slice.height},
                        slice.col_begin / kBlockCols, blocks(panel), signs.data(), masks.data());
        }
        slice.signs = signs.data();
        slice.masks = masks.data();
        for (int64_t b = 0; b < task.samples; ++b) {
            const bool last = b + 1 == task.samples;
            slice.grads = grads_at(task.first_sample + b, panel);
            slice.next_grads = nullptr;
            if (!last) {
                slice.next_grads = grads_at(task.first_sample + b + 1, panel);
            } else if (next != nullptr) {
                slice.next_grads = grads_at(task.first_sample, *next);
                slice.next_first = moments_at(slice.first, next);
                slice.next_second = moments_at(slice.second, next);
            }
            slice.sketch = task.sketches + b * task.sketch_stride;
            slice.norms = task.norms + b * task.norm_stride;
            kernel(slice);
        }
    }

    const ProjectRows& call_;
    RowsSlice slice_{};
};

}  // namespace

void project_rows(const ProjectRows& call) {
    check(call);
    const int64_t cols = call.grads.cols, dim = call.projection.proj_dim, samples = call.sketches.rows;
    const bool sparse = call.row_ids != nullptr;
    const bool dense_kind = call.projection.kind == ProjectionKind::kRademacher;
    const ProjectRowsFn kernel = kTable.pick(active_isa());
    const PanelLoop loop(call, gamma_terms(call.gamma));

    const auto rows_of = [&](int64_t b) { return sparse ? call.cu_seqlens[b + 1] - call.cu_seqlens[b] : call.rows; };
    const int64_t entry_cost = kEntryCost + (dense_kind ? dim / 4 : 0);
    const auto slices_of = [&](int64_t b) { return slice_count(Cut::kRows, rows_of(b), cols, entry_cost, dim); };
    const auto body = [&](const SliceTask& task) {
        const int64_t b = task.first_sample;
        loop(task, slice_rect(Cut::kRows, rows_of(b), cols, slices_of(b), task.index), kernel);
    };
    const int64_t entries = (sparse ? call.cu_seqlens[samples] : call.rows * samples) * cols;
    const int64_t work = dense_kind ? entries * dim / kBlockCols : entries;
    const int threads = static_cast<int>(std::clamp<int64_t>(work / kThreadEntries, 1, call.threads));
    SliceOptions options;
    // Samples share what a task draws, as long as every thread has some tasks.
    if (!sparse && samples > 0) {
        const int64_t shared = threads == 1 ? samples : samples * slices_of(0) / (2 * threads);
        options.group = std::clamp<int64_t>(shared, 1, std::max<int64_t>(1, kGroupFloats / dim));
    }
    options.in_place = !sparse && call.rows * cols <= dim;
    const SketchOutput output{call.sketches, call.norms, call.accumulate, call.projection.scale()};
    run_slices(samples, slices_of, options, body, output, threads);
}

}  // namespace gradsift
