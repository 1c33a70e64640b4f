// Between project_rows.cpp and its per-ISA files: one panel of one sample. No C++ library header here.
#pragma once
#include <stdint.h>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/sketch_plan.h"

namespace gradsift {

/// Some rows of one sample and some blocks of their columns, few enough for the first cache.
struct RowsSlice {
    const void* grads;  // entry (0, 0) of the panel
    Dtype dtype;
    int64_t row_stride;
    const int64_t* row_ids;  // row k of the panel is row row_ids[k] of the parameter, or row_begin + k where null
    int64_t row_begin;
    int64_t height, width;
    int64_t col_begin;           // a multiple of 128
    int64_t cols;                // of the parameter
    SketchPlan plan;             // without tables
    const uint32_t (*signs)[4];  // (nonzeros, height, blocks of the panel); drawn for xor only
    const uint32_t* masks;       // the same shape
    GammaTerms terms;
    MomentView first, second;  // of the whole parameter
    // Entry (0, 0) of what is read next, asked for from memory meanwhile; null where that is nothing new.
    const void* next_grads;
    const void* next_first;
    const void* next_second;
    float* sketch;  // P numbers, added to
    double* norms;  // 2 numbers, added to
};

using ProjectRowsFn = void (*)(const RowsSlice&);

void project_rows_scalar(const RowsSlice& slice);
void project_rows_neon(const RowsSlice& slice);
void project_rows_avx2(const RowsSlice& slice);
void project_rows_avx512(const RowsSlice& slice);

}  // namespace gradsift
