// The loop of project_rows, written once over Vec. Read by the per-ISA files after one of common/vec_*.h.
#pragma once
#include "common/sketch_row.h"
#include "project_rows/project_rows_kernel.h"

namespace gradsift {
namespace {

template <GammaKind kKind, class T>
void run_rows(const RowsSlice& slice) {
    SquareNorms norms;
    for (int64_t k = slice.row_begin; k < slice.row_end; ++k) {
        const T* const grads = static_cast<const T*>(slice.grads) + k * slice.row_stride;
        const int64_t row = slice.row_ids != nullptr ? slice.row_ids[k] : k;
        for (int64_t col = slice.col_begin; col < slice.col_end; col += kBlockCols) {
            const int64_t left = slice.col_end - col;
            const int width = static_cast<int>(left < kBlockCols ? left : kBlockCols);
            alignas(64) float mapped[kBlockCols];
            map_run<kKind>(grads + col, width, slice.terms, slice.first, slice.second, row * slice.cols + col, mapped,
                           norms);
            add_run(slice.plan, {row, slice.first_sign_row + k, col, width}, mapped, slice.sketch);
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
