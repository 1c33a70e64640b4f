// The loop of project_rows, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "common/sketch_row.h"
#include "project_rows/project_rows_kernel.h"

namespace gradsift {
namespace {

constexpr int kPatchRows = 8;

template <GammaKind kKind, class T>
void run_rows(const RowsSlice& slice) {
    SquareNorms norms;
    // Listed rows lie anywhere in the parameter and are taken one by one.
    const int step = slice.row_ids == nullptr ? kPatchRows : 1;
    for (int64_t k = slice.row_begin; k < slice.row_end; k += step) {
        const T* const grads = static_cast<const T*>(slice.grads) + k * slice.row_stride;
        const int64_t row = slice.row_ids != nullptr ? slice.row_ids[k] : k;
        const int height = static_cast<int>(slice.row_end - k < step ? slice.row_end - k : step);
        for (int64_t col = slice.col_begin; col < slice.col_end; col += kBlockCols) {
            const int64_t left = slice.col_end - col;
            const int width = static_cast<int>(left < kBlockCols ? left : kBlockCols);
            const Patch patch{row, slice.first_sign_row + k, col, height, width};
            add_patch<kKind>(slice.plan, patch, Entries<T>{grads + col, slice.row_stride}, slice.first, slice.second,
                             slice.cols, slice.terms, slice.sketch, norms);
        }
    }
    norms.add_to(slice.norms);
}

void run_rows(const RowsSlice& slice) {
    with_gamma(slice.terms.kind, [&]<GammaKind kKind>() {
        if (slice.dtype == Dtype::kFloat32) {
            run_rows<kKind, float>(slice);
        } else {
            run_rows<kKind, bf16>(slice);
        }
    });
}

}  // namespace
}  // namespace gradsift
