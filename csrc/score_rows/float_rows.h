// Rows of floats against float32 columns, written once over Vec. Read by the per-ISA files after one of common/vec_*.h
// and kGroupColumns.
#pragma once
#include "score_rows/rows_tile.h"

namespace gradsift {
namespace {

template <class T>
struct FloatRows {
    using Stored = T;
    using Number = float;
    using X = Vec;
    using Sum = Vec;
    static constexpr int64_t kLanes = Vec::kLanes;
    static constexpr int kPlanes = 1, kGroupColumns = gradsift::kGroupColumns;

    static Vec widen(const T* from) { return Vec::load(from); }
    static Vec load(const float* from) { return Vec::load(from); }
    static void store(float* to, Vec x) { x.store(to); }
    static void split(float value, float* to) { *to = value; }
    static Vec zero() { return Vec::zero(); }
    static Vec mul_add(Vec x, Vec y, Vec sum) { return Vec::mul_add(x, y, sum); }
    static void add_sums4(const Vec (&sums)[4], float* to) { Vec::add_sums4(sums, to); }
};

inline RowKernel float_row_kernel(RowFormat format) {
    if (format == RowFormat::kFloat32) return row_kernel<FloatRows<float>>();
    if (format == RowFormat::kFloat16) return row_kernel<FloatRows<fp16>>();
    return row_kernel<FloatRows<bf16>>();
}

}  // namespace
}  // namespace gradsift
