#pragma once
#include <stdint.h>

#include "common/dtype.h"

namespace gradsift {

/// A matrix somebody else owns: unit column stride, row stride in elements.
template <class T>
struct MatrixView {
    T* data = nullptr;
    int64_t rows = 0;
    int64_t cols = 0;
    int64_t row_stride = 0;

    T* row(int64_t index) const { return data + index * row_stride; }
    explicit operator bool() const { return data != nullptr; }
};

/// The rows of a batch: row t of sample b lies at `sample_stride · b + row_stride · t` elements from `data`; unit
/// column stride, any alignment. Packed samples have sample stride 0 and differ by their first row.
struct RowsView {
    const void* data = nullptr;
    Dtype dtype = Dtype::kFloat32;
    int64_t cols = 0;
    int64_t sample_stride = 0;
    int64_t row_stride = 0;

    const void* row(int64_t sample, int64_t index) const {
        return static_cast<const char*>(data) + (sample_stride * sample + row_stride * index) * size_of(dtype);
    }
};

/// One array of optimizer moments, shaped as the parameter and contiguous; null where the map reads none.
struct MomentView {
    const void* data = nullptr;
    Dtype dtype = Dtype::kFloat32;
};

}  // namespace gradsift
