#pragma once
#include "common/isa.h"

namespace gradsift {

/// An op's kernels by level; levels that were not built stay null.
template <class Fn>
struct IsaTable {
    Fn scalar;
    Fn neon = nullptr;
    Fn avx2 = nullptr;
    Fn avx512 = nullptr;
    Fn avx512vnni = nullptr;
    Fn avx512bf16 = nullptr;

    /// The best kernel at or below `level`.
    Fn pick(Isa level) const {
        if (level >= Isa::kAvx512Bf16 && avx512bf16) return avx512bf16;
        if (level >= Isa::kAvx512Vnni && avx512vnni) return avx512vnni;
        if (level >= Isa::kAvx512 && avx512) return avx512;
        if (level >= Isa::kAvx2 && avx2) return avx2;
        if (level >= Isa::kNeon && neon) return neon;
        return scalar;
    }
};

}  // namespace gradsift
