#include "project_rows/project_rows.h"

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

constexpr int64_t kEntryCost = 16;  // multiply-adds that reading, Γ and adding an entry are worth

}  // namespace

void project_rows(const ProjectRows& call) {
    check(call);
    const int64_t cols = call.grads.cols, dim = call.projection.proj_dim, samples = call.sketches.rows;
    const bool sparse = call.row_ids != nullptr;
    const int64_t listed = sparse ? call.cu_seqlens[samples] : call.rows;
    const ProjectRowsFn kernel = kTable.pick(active_isa());
    const ProjectionTables tables(call.projection, call.param_id, call.rows, cols, call.row_ids, listed, call.threads);
    const GammaTerms terms = gamma_terms(call.gamma);
    const bool dense = call.projection.kind == ProjectionKind::kRademacher;

    const auto rows_of = [&](int64_t b) { return sparse ? call.cu_seqlens[b + 1] - call.cu_seqlens[b] : call.rows; };
    const auto slices_of = [&](int64_t b) {
        return slice_count(rows_of(b), cols, kEntryCost + (dense ? dim / 4 : 0), dim);
    };
    const auto body = [&](int64_t b, int64_t index, float* sketch, double* norms) {
        const int64_t begin = sparse ? call.cu_seqlens[b] : 0;
        const Rect rect = slice_rect(rows_of(b), cols, slices_of(b), index);
        RowsSlice slice{};
        slice.grads = call.grads.row(b, begin);
        slice.dtype = call.grads.dtype;
        slice.row_stride = call.grads.row_stride;
        slice.row_ids = sparse ? call.row_ids + begin : nullptr;
        slice.first_sign_row = begin;
        slice.cols = cols;
        slice.row_begin = rect.row_begin;
        slice.row_end = rect.row_end;
        slice.col_begin = rect.col_begin;
        slice.col_end = rect.col_end;
        slice.plan = tables.plan();
        slice.terms = terms;
        slice.first = call.first;
        slice.second = call.second;
        slice.sketch = sketch;
        slice.norms = norms;
        kernel(slice);
    };
    const SketchOutput output{call.sketches, call.norms, call.accumulate, call.projection.scale()};
    run_slices(samples, slices_of, body, output, call.threads);
}

}  // namespace gradsift
