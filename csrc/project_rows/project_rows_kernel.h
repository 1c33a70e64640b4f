// Between project_rows.cpp and its per-ISA files: one slice of one sample. No C++ library header here.
#pragma once
#include <stdint.h>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/sketch_plan.h"

namespace gradsift {

struct RowsSlice {
    const void* grads;  // the sample's first row
    Dtype dtype;
    int64_t row_stride;
    const int64_t* row_ids;  // of the sample's rows, or null: row k is row k of the parameter
    int64_t first_sign_row;  // sign row of the sample's first row
    int64_t cols;
    int64_t row_begin, row_end, col_begin, col_end;  // rows count the sample's own; col_begin is a multiple of 128
    SketchPlan plan;
    GammaTerms terms;
    MomentView first, second;
    float* sketch;  // P numbers, added to
    double* norms;  // 2 numbers, added to
};

using ProjectRowsFn = void (*)(const RowsSlice&);

void project_rows_scalar(const RowsSlice& slice);
void project_rows_neon(const RowsSlice& slice);
void project_rows_avx2(const RowsSlice& slice);
void project_rows_avx512(const RowsSlice& slice);

}  // namespace gradsift
