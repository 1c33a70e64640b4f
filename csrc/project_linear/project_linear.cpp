#include "project_linear/project_linear.h"

#include <algorithm>

#include "common/check.h"
#include "common/isa_table.h"
#include "common/preconditions.h"
#include "common/slices.h"
#include "project_linear/project_linear_kernel.h"

namespace gradsift {
namespace {

constexpr IsaTable<ProjectLinearFn> kTable = {
    .scalar = project_linear_scalar,
#if GRADSIFT_BUILD_NEON
    .neon = project_linear_neon,
#endif
#if GRADSIFT_BUILD_AVX2
    .avx2 = project_linear_avx2,
#endif
#if GRADSIFT_BUILD_AVX512
    .avx512 = project_linear_avx512,
#endif
#if GRADSIFT_BUILD_AVX512BF16
    .avx512bf16 = project_linear_avx512bf16,
#endif
};

void check(const ProjectLinear& call) {
    check_projection(call.projection);
    check_gamma(call.gamma);
    check_output(call.sketches, call.norms, call.projection.proj_dim, call.threads);
    check_moments(call.gamma.kind, call.first, call.second);
    check_rows("activations", call.activations);
    check_rows("output_grads", call.output_grads);
    require(call.activations.dtype == call.output_grads.dtype, "output_grads: expected the dtype of activations");
    check_offsets(call.cu_seqlens, call.sketches.rows);
}

// Γ and the signed add take about as long as this many tokens.
constexpr int64_t kEpilogueTokens = 32;

}  // namespace

void project_linear(const ProjectLinear& call) {
    check(call);
    const int64_t rows = call.output_grads.cols, cols = call.activations.cols;
    const int64_t dim = call.projection.proj_dim;
    const ProjectLinearFn kernel = kTable.pick(active_isa());
    const ProjectionTables tables(call.projection, call.param_id, rows, cols, call.threads);
    const GammaTerms terms = gamma_terms(call.gamma);
    const bool dense = call.projection.kind == ProjectionKind::kRademacher;

    const auto tokens_of = [&](int64_t b) { return call.cu_seqlens[b + 1] - call.cu_seqlens[b]; };
    const auto slices_of = [&](int64_t b) {
        return slice_count(Cut::kLongerSide, rows, cols, tokens_of(b) + kEpilogueTokens + (dense ? dim / 4 : 0), dim);
    };
    const auto body = [&](const SliceTask& task) {
        const int64_t b = task.first_sample;
        const int64_t begin = call.padded ? 0 : call.cu_seqlens[b];
        const Rect rect = slice_rect(Cut::kLongerSide, rows, cols, slices_of(b), task.index);
        LinearSlice slice{};
        slice.activations = call.activations.row(b, begin);
        slice.output_grads = call.output_grads.row(b, begin);
        slice.dtype = call.activations.dtype;
        slice.activation_stride = call.activations.row_stride;
        slice.output_grad_stride = call.output_grads.row_stride;
        slice.tokens = tokens_of(b);
        slice.cols = cols;
        slice.row_begin = rect.row_begin;
        slice.row_end = rect.row_end;
        slice.col_begin = rect.col_begin;
        slice.col_end = rect.col_end;
        slice.plan = tables.plan();
        slice.terms = terms;
        slice.first = reads_first_moment(terms.kind) ? call.first : MomentView{};
        slice.second = reads_second_moment(terms.kind) ? call.second : MomentView{};
        slice.panels = thread_scratch(
            linear_panel_floats(slice.tokens, std::min(rect.row_end - rect.row_begin, rect.col_end - rect.col_begin)));
        slice.sketch = task.sketches;
        slice.norms = task.norms;
        kernel(slice);
    };
    const SketchOutput output{call.sketches, call.norms, call.accumulate, call.projection.scale()};
    run_slices(call.sketches.rows, slices_of, {}, body, output, call.threads);
}

}  // namespace gradsift
