// How Python's tuples of numbers become what the kernels take; shared by the bindings.
#pragma once
#include <cstdint>
#include <tuple>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/projection.h"

namespace gradsift {

// (address, dtype, sample stride, row stride), strides in elements
using RowsTuple = std::tuple<uintptr_t, int, int64_t, int64_t>;
// (address, row stride in elements)
using MatrixTuple = std::tuple<uintptr_t, int64_t>;
// (address, dtype); address 0: none
using MomentTuple = std::tuple<uintptr_t, int>;
// (kind, proj_dim, seed, nonzeros)
using ProjectionTuple = std::tuple<int, int64_t, uint64_t, int>;
// (kind, beta1, beta2, eps, step)
using GammaTuple = std::tuple<int, double, double, double, int64_t>;
// (sketches address, row stride, norms address or 0, row stride, accumulate)
using OutputTuple = std::tuple<uintptr_t, int64_t, uintptr_t, int64_t, bool>;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

inline RowsView rows_view(const RowsTuple& rows, int64_t cols) {
    const auto& [address, dtype, sample_stride, row_stride] = rows;
    return {pointer<const void>(address), static_cast<Dtype>(dtype), cols, sample_stride, row_stride};
}

inline MomentView moment_view(const MomentTuple& moment) {
    const auto& [address, dtype] = moment;
    return {pointer<const void>(address), static_cast<Dtype>(dtype)};
}

inline Projection projection_of(const ProjectionTuple& projection) {
    const auto& [kind, proj_dim, seed, nonzeros] = projection;
    return {static_cast<ProjectionKind>(kind), proj_dim, seed, nonzeros};
}

inline Gamma gamma_of(const GammaTuple& gamma) {
    const auto& [kind, beta1, beta2, eps, step] = gamma;
    return {static_cast<GammaKind>(kind), beta1, beta2, eps, step};
}

}  // namespace gradsift
