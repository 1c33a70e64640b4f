// From gradients to a sketch, rows of at most 128 entries at a time: Γ, norms, signed add. Read by the per-ISA files
// after one of common/vec_*.h, so everything is in an anonymous namespace and no C++ library header is used.
#pragma once
#include <stdint.h>

#include "common/gamma.h"
#include "common/matrix_view.h"
#include "common/philox.h"
#include "common/sketch_plan.h"

namespace gradsift {
namespace {

struct SquareNorms {
    Vec::SquareSum grad, gamma;

    void add_to(double* norms) const {
        norms[0] += grad.total();
        norms[1] += gamma.total();
    }
};

/// A part of the parameter: `height` rows of `width` entries, the columns within one block of 128.
struct Patch {
    int64_t row, sign_row, col;
    int height, width;
};

/// One row of a patch.
struct Run {
    int64_t row, sign_row, col;
    int width;
};

template <class T>
inline Vec load_up_to(const T* from, int64_t count) {
    return count >= Vec::kLanes ? Vec::load(from) : Vec::load_first(from, count);
}

inline Vec load_moment(const MomentView& moment, int64_t at, int64_t count) {
    if (moment.dtype == Dtype::kFloat32) return load_up_to(static_cast<const float*>(moment.data) + at, count);
    return load_up_to(static_cast<const bf16*>(moment.data) + at, count);
}

/// Γ of one row into `mapped`, zeros up to a whole vector; `at` is its first entry in the moments.
template <GammaKind kKind, class T>
inline void map_run(const T* grads, int width, const GammaTerms& terms, const MomentView& first,
                    const MomentView& second, int64_t at, float* mapped, SquareNorms& norms) {
    for (int k = 0; k < width; k += Vec::kLanes) {
        const int count = width - k;
        Vec g = load_up_to(grads + k, count);
        if (count < Vec::kLanes) g = Vec::first(g, count);
        Vec update = g;
        if constexpr (kKind == GammaKind::kSign) {
            update = Vec::sign(g);
        } else if constexpr (kKind != GammaKind::kSgd) {
            Vec power = Vec::all(terms.second_v) * load_moment(second, at + k, count);
            if constexpr (kKind == GammaKind::kAdam || kKind == GammaKind::kLess) {
                power = Vec::mul_add(Vec::all(terms.second_g) * g, g, power);
            }
            if constexpr (kKind == GammaKind::kLess) power = power + Vec::all(terms.inner_eps);
            Vec root = Vec::sqrt(power);
            if constexpr (kKind != GammaKind::kLess) root = root + Vec::all(terms.eps);
            if constexpr (kKind != GammaKind::kSecondMoment) {
                const Vec decayed = Vec::all(terms.first_m) * load_moment(first, at + k, count);
                update = Vec::mul_add(Vec::all(terms.first_g), g, decayed);
            }
            update = update / root;
        }
        if (count < Vec::kLanes) update = Vec::first(update, count);
        norms.grad.add(g);
        if constexpr (kKind != GammaKind::kSgd) norms.gamma.add(update);
        update.store(mapped + k);
    }
}

/// mapped[r] = Γ(grads[r]) for the rows of a patch, `at` the first entry of row 0 in the moments.
/// Out of line: inlined into the loop over tokens, the constants of Γ push the accumulators out of registers, which
/// cost a trial 60% of its speed.
template <GammaKind kKind, class T>
__attribute__((noinline)) void map_patch(const T* grads, int64_t stride, const Patch& patch, const GammaTerms& terms,
                                         const MomentView& first, const MomentView& second, int64_t cols, float* mapped,
                                         int64_t mapped_stride, SquareNorms& norms) {
    const GammaTerms constants = terms;  // and a copy of the sums: neither can be what `mapped` points to
    SquareNorms sums = norms;
    const int64_t at = patch.row * cols + patch.col;
    for (int r = 0; r < patch.height; ++r) {
        map_run<kKind>(grads + r * stride, patch.width, constants, first, second, at + r * cols,
                       mapped + r * mapped_stride, sums);
    }
    if constexpr (kKind == GammaKind::kSgd) sums.gamma = sums.grad;
    norms = sums;
}

/// XOR count-sketch: each repeat adds the run, signed, to the one line of 128 numbers that its chunk's masks name.
inline void add_run_xor(const SketchPlan& plan, const Run& run, const float* mapped, float* sketch) {
    const int64_t block = run.col / kBlockCols;
    const int start = static_cast<int>(run.col % kBlockCols);
    for (int repeat = 0; repeat < plan.nonzeros; ++repeat) {
        const uint32_t mask =
            plan.masks[(repeat * plan.row_chunks + (run.row >> plan.chunk_rows_log2)) * plan.col_blocks + block];
        const uint32_t* const signs = plan.signs[(repeat * plan.sign_rows + run.sign_row) * plan.col_blocks + block];
        const int col_mask = mask & (kBlockCols - 1);
        const int64_t line = (run.row ^ (mask >> 7)) & (plan.chunk_rows - 1);
        const int64_t part = (mask >> (7 + plan.chunk_rows_log2)) & ((plan.proj_dim - 1) / kBlockDim);
        float* const into = sketch + part * kBlockDim + line * kBlockCols;
        const Vec::Permutation lanes = Vec::xor_lanes(col_mask & (Vec::kLanes - 1));
        const int vector_mask = col_mask & ~(Vec::kLanes - 1);
        for (int k = 0; k < run.width; k += Vec::kLanes) {
            const int col = start + k;
            const Vec update = Vec::negate(Vec::load(mapped + k), signs[col / 32] >> (col % 32));
            float* const at = into + (col ^ vector_mask);
            (Vec::load(at) + Vec::permute(update, lanes)).store(at);
        }
    }
}

/// Dense ±1: every entry of the run reaches every number of the sketch.
inline void add_run_rademacher(const SketchPlan& plan, const Run& run, const float* mapped, float* sketch) {
    constexpr int kVectors = 32 / Vec::kLanes;  // one word of signs
    uint32_t words[kBlockCols][4];
    for (int64_t part = 0; part < plan.proj_dim / kBlockCols; ++part) {
        const uint32_t high = plan.seed[1] ^ 0x52414445u ^ (0x9E3779B9u * static_cast<uint32_t>(part));
        philox_lanes(plan.param_id[0], plan.param_id[1], static_cast<uint32_t>(run.row), static_cast<uint32_t>(run.col),
                     plan.seed[0], high, run.width, words);
        for (int w = 0; w < 4; ++w) {
            float* const into = sketch + part * kBlockCols + w * 32;
            Vec sums[kVectors];
            for (int k = 0; k < kVectors; ++k) sums[k] = Vec::load(into + k * Vec::kLanes);
            for (int e = 0; e < run.width; ++e) {
                const Vec value = Vec::all(mapped[e]);
                for (int k = 0; k < kVectors; ++k) {
                    sums[k] = sums[k] + Vec::negate(value, words[e][w] >> (k * Vec::kLanes));
                }
            }
            for (int k = 0; k < kVectors; ++k) sums[k].store(into + k * Vec::kLanes);
        }
    }
}

__attribute__((noinline)) void add_patch(const SketchPlan& plan, const Patch& patch, const float* mapped,
                                         int64_t mapped_stride, float* sketch) {
    for (int r = 0; r < patch.height; ++r, mapped += mapped_stride) {
        const Run run{patch.row + r, patch.sign_row + r, patch.col, patch.width};
        if (plan.kind == ProjectionKind::kXor) {
            add_run_xor(plan, run, mapped, sketch);
        } else {
            add_run_rademacher(plan, run, mapped, sketch);
        }
    }
}

/// Γ is chosen once a slice: calls body.template operator()<kind>().
template <class Body>
inline void with_gamma(GammaKind kind, const Body& body) {
    switch (kind) {
        case GammaKind::kSgd:
            return body.template operator()<GammaKind::kSgd>();
        case GammaKind::kAdam:
            return body.template operator()<GammaKind::kAdam>();
        case GammaKind::kLess:
            return body.template operator()<GammaKind::kLess>();
        case GammaKind::kAffine:
            return body.template operator()<GammaKind::kAffine>();
        case GammaKind::kSecondMoment:
            return body.template operator()<GammaKind::kSecondMoment>();
        case GammaKind::kSign:
            return body.template operator()<GammaKind::kSign>();
    }
}

}  // namespace
}  // namespace gradsift
