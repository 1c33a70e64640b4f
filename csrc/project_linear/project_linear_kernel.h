// Between project_linear.cpp and its per-ISA files: one slice of one sample. No C++ library header here.
#pragma once
#include <stdint.h>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/sketch_plan.h"

namespace gradsift {

struct LinearSlice {
    const void* activations;  // first token of the sample
    const void* output_grads;
    Dtype dtype;
    int64_t activation_stride, output_grad_stride;
    int64_t tokens;
    int64_t cols;                                    // d_in, the stride of the moments
    int64_t row_begin, row_end, col_begin, col_end;  // col_begin is a multiple of 128
    SketchPlan plan;
    GammaTerms terms;
    MomentView first, second;
    float* panels;  // room for linear_panel_floats
    float* sketch;  // P numbers, added to
    double* norms;  // 2 numbers, added to
};

constexpr int kMaxTileRows = 16;

/// Floats from one panel of `tokens` × `width` to the next. The odd line keeps panels of a power of two tokens out of
/// each other's cache sets.
static inline int64_t panel_floats(int64_t tokens, int64_t width) { return tokens * width + 16; }

/// Room a kernel needs for one block of the longer side and all of the shorter, in panels as narrow as four.
static inline int64_t linear_panel_floats(int64_t tokens, int64_t shorter) {
    return kBlockCols / 4 * panel_floats(tokens, 4) + (shorter / 4 + kMaxTileRows) * panel_floats(tokens, 4);
}

using ProjectLinearFn = void (*)(const LinearSlice&);

void project_linear_scalar(const LinearSlice& slice);
void project_linear_neon(const LinearSlice& slice);
void project_linear_avx2(const LinearSlice& slice);
void project_linear_avx512(const LinearSlice& slice);
void project_linear_avx512bf16(const LinearSlice& slice);

}  // namespace gradsift
