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

/// ‖g‖² and ‖Γ‖².
struct SquareNorms {
    double grad = 0, gamma = 0;

    void operator+=(const SquareNorms& other) {
        grad += other.grad;
        gamma += other.gamma;
    }
    void add_to(double* norms) const {
        norms[0] += grad;
        norms[1] += gamma;
    }
};

/// A part of the parameter: `height` rows of `width` entries, the columns within one block of 128.
struct Patch {
    int64_t row, col;
    int height, width;
};

/// One row of a patch.
struct Run {
    int64_t row, col;
    int width;
};

/// Entries in memory, rows `stride` apart.
template <class T>
struct Entries {
    const T* data;
    int64_t stride;

    const T* row(int64_t r) const { return data + r * stride; }
};

/// Both moments from one entry of the parameter on; null where Γ reads none.
template <class M>
struct Moments {
    const M* first;
    const M* second;

    /// `count` entries further on.
    template <GammaKind kKind>
    Moments after(int64_t count) const {
        return {reads_first_moment(kKind) ? first + count : nullptr,
                reads_second_moment(kKind) ? second + count : nullptr};
    }
};

/// Reads `count` entries, the rest as zeros; a whole vector where kWhole says so.
template <bool kWhole, class T>
inline Vec load_up_to(const T* from, int64_t count) {
    return kWhole || count >= Vec::kLanes ? Vec::load(from) : Vec::load_first(from, count);
}

/// Γ of one vector, of which `count` entries exist.
template <GammaKind kKind, bool kWhole, class M>
inline Vec map_vector(Vec g, const Moments<M>& moments, int64_t count, const GammaTerms& terms) {
    if constexpr (kKind == GammaKind::kSgd) {
        return g;
    } else if constexpr (kKind == GammaKind::kSign) {
        return Vec::sign(g);
    } else {
        Vec power = Vec::all(terms.second_v) * load_up_to<kWhole>(moments.second, count);
        if constexpr (kKind == GammaKind::kAdam || kKind == GammaKind::kLess) {
            power = Vec::mul_add(Vec::all(terms.second_g) * g, g, power);
        }
        if constexpr (kKind == GammaKind::kLess) power = power + Vec::all(terms.inner_eps);
        Vec root = Vec::sqrt(power);
        if constexpr (kKind != GammaKind::kLess) root = root + Vec::all(terms.eps);
        Vec update = g;
        if constexpr (reads_first_moment(kKind)) {
            const Vec decayed = Vec::all(terms.first_m) * load_up_to<kWhole>(moments.first, count);
            update = Vec::mul_add(Vec::all(terms.first_g), g, decayed);
        }
        update = update / root;
        return kWhole || count >= Vec::kLanes ? update : Vec::first(update, count);
    }
}

/// Squares added up in float32: rows each by themselves and then their sums, so that few are added in a row.
struct SquareSums {
    Vec grad = Vec::zero(), gamma = Vec::zero();

    template <GammaKind kKind>
    void add(Vec g, Vec update) {
        grad = Vec::mul_add(g, g, grad);
        if constexpr (kKind != GammaKind::kSgd) gamma = Vec::mul_add(update, update, gamma);
    }
    void operator+=(const SquareSums& other) {
        grad = grad + other.grad;
        gamma = gamma + other.gamma;
    }
    template <GammaKind kKind>
    SquareNorms norms() const {
        const double sum = Vec::sum(grad);
        return {sum, kKind == GammaKind::kSgd ? sum : Vec::sum(gamma)};
    }
};

/// Whether no square that counts was lost in float32: none overflowed, and what fell below its smallest number, at
/// most 2**-149 an entry, is nothing beside the sum.
inline bool held(double sum) { return sum >= 0x1p-100 && sum < __builtin_inf(); }
inline bool held(const SquareNorms& norms) { return held(norms.grad) && held(norms.gamma); }

/// The norms of a rectangle in float64, for squares that float32 does not hold.
template <GammaKind kKind, class T, class M>
__attribute__((noinline, cold)) SquareNorms wide_norms(Entries<T> grads, int64_t height, int64_t width,
                                                       Moments<M> moments, int64_t cols, const GammaTerms& terms) {
    Vec::SquareSum grad, gamma;
    for (int64_t r = 0; r < height; ++r) {
        for (int64_t k = 0; k < width; k += Vec::kLanes) {
            const Vec g = load_up_to<false>(grads.row(r) + k, width - k);
            grad.add(g);
            gamma.add(map_vector<kKind, false>(g, moments.template after<kKind>(r * cols + k), width - k, terms));
        }
    }
    return {grad.total(), gamma.total()};
}

/// Where the entries of one chunk go.
struct Chunk {
    float* part;  // the numbers of the sketch that the chunk reaches
    int64_t row_mask;
    int vector_mask;  // of the column, a multiple of a vector
    Vec::Permutation lanes;

    Chunk(const SketchPlan& plan, uint32_t mask, float* sketch)
        : part(sketch + ((mask >> (7 + plan.chunk_rows_log2)) & ((plan.proj_dim - 1) / kBlockDim)) * kBlockDim),
          row_mask((mask >> 7) & (plan.chunk_rows - 1)),
          vector_mask(mask & (kBlockCols - Vec::kLanes)),
          lanes(Vec::xor_lanes(mask & (Vec::kLanes - 1))) {}

    /// The 128 numbers that row `row_in_chunk` reaches.
    float* line(int64_t row_in_chunk) const { return part + (row_in_chunk ^ row_mask) * kBlockCols; }

    /// Adds a vector of Γ, signed, at `to`, the place of its first column without the mask of lanes.
    void add(Vec update, uint32_t signs, float* to) const {
        (Vec::load(to) + Vec::permute(Vec::negate(update, signs), lanes)).store(to);
    }
};

inline uint32_t mask_of(const SketchPlan& plan, int repeat, int64_t row, int64_t block) {
    return plan.masks[(repeat * plan.row_chunks + (row >> plan.chunk_rows_log2)) * plan.col_blocks + block];
}

inline const uint32_t* signs_of(const SketchPlan& plan, int repeat, int64_t row, int64_t block) {
    return plan.signs[(repeat * plan.rows + row) * plan.col_blocks + block];
}

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "sign bits are read out of words byte by byte");

/// The bits of a vector whose first column within the block is `col`, in the low places.
inline uint32_t sign_bits(const uint32_t* signs, int col) {
    const char* const at = reinterpret_cast<const char*>(signs) + col / 8;
    if constexpr (Vec::kLanes == 16) {
        uint16_t bits;
        __builtin_memcpy(&bits, at, sizeof bits);
        return bits;
    } else {
        return static_cast<uint32_t>(static_cast<unsigned char>(*at)) >> (col % 8);
    }
}

/// Γ, norms and signed add of one row of a block in one pass: kVectors whole vectors from a column on that is a
/// multiple of them, or `width` entries where kVectors is 0. `place` is the place of its first column.
template <GammaKind kKind, int kVectors, class T, class M>
inline void add_row(const T* grads, const Moments<M>& moments, int width, const GammaTerms& terms, const Chunk& chunk,
                    const uint32_t* signs, int start, float* line, SquareSums& sums) {
    constexpr bool kWhole = kVectors > 0;
    SquareSums own[2];  // two chains, for the sake of latency
    const int end = kWhole ? kVectors * Vec::kLanes : width;
    const int first = start ^ chunk.vector_mask;
#pragma GCC unroll 8
    for (int k = 0; k < end; k += Vec::kLanes) {
        const Vec g = load_up_to<kWhole>(grads + k, end - k);
        const Vec update = map_vector<kKind, kWhole>(g, moments.template after<kKind>(k), end - k, terms);
        own[k / Vec::kLanes % 2].template add<kKind>(g, update);
        chunk.add(update, sign_bits(signs, start + k), line + (kWhole ? first ^ k : (start + k) ^ chunk.vector_mask));
    }
    own[0] += own[1];
    sums += own[0];
}

template <GammaKind kKind, int kVectors, class T, class M>
__attribute__((noinline)) void add_patch_once(const SketchPlan& shared_plan, const Patch& shared_patch,
                                              Entries<T> grads, Moments<M> moments, int64_t cols,
                                              const GammaTerms& shared_terms, float* sketch, SquareNorms& norms) {
    // Copies cannot be what `sketch` points to and stay in registers.
    const SketchPlan plan = shared_plan;
    const Patch patch = shared_patch;
    const GammaTerms terms = shared_terms;
    const uint32_t* signs = signs_of(plan, 0, patch.row, patch.col / kBlockCols);
    const int start = static_cast<int>(patch.col % kBlockCols);
    Entries<T> left = grads;
    Moments<M> moments_left = moments;
    SquareSums sums;
    for (int64_t row = patch.row; row < patch.row + patch.height;) {
        const Chunk chunk(plan, mask_of(plan, 0, row, patch.col / kBlockCols), sketch);
        int64_t line = row & (plan.chunk_rows - 1);
        const int64_t rest = patch.row + patch.height - row;
        const int64_t end = line + rest < plan.chunk_rows ? line + rest : plan.chunk_rows;
        row += end - line;
        for (; line < end; ++line) {
            add_row<kKind, kVectors>(left.data, moments_left, patch.width, terms, chunk, signs, start, chunk.line(line),
                                     sums);
            left.data += left.stride;
            moments_left = moments_left.template after<kKind>(cols);
            signs += plan.col_blocks * 4;
        }
    }
    SquareNorms own = sums.norms<kKind>();
    if (!held(own)) own = wide_norms<kKind>(grads, patch.height, patch.width, moments, cols, terms);
    norms += own;
}

/// Γ of one row into `mapped`, zeros up to a whole vector.
template <GammaKind kKind, class T, class M>
inline void map_row(const T* grads, const Moments<M>& moments, int width, const GammaTerms& terms, float* mapped,
                    SquareSums& sums) {
    SquareSums own;
    for (int k = 0; k < width; k += Vec::kLanes) {
        const Vec g = load_up_to<false>(grads + k, width - k);
        const Vec update = map_vector<kKind, false>(g, moments.template after<kKind>(k), width - k, terms);
        own.add<kKind>(g, update);
        update.store(mapped + k);
    }
    sums += own;
}

/// Adds a run of Γ, signed, to the one line of 128 numbers that its chunk's mask names.
inline void add_mapped(const Chunk& chunk, const uint32_t* signs, int start, int width, const float* mapped,
                       float* line) {
    for (int k = 0; k < width; k += Vec::kLanes) {
        chunk.add(Vec::load(mapped + k), sign_bits(signs, start + k), line + ((start + k) ^ chunk.vector_mask));
    }
}

/// XOR count-sketch with several nonzeros.
inline void add_run_xor(const SketchPlan& plan, const Run& run, const float* mapped, float* sketch) {
    const int64_t block = run.col / kBlockCols;
    for (int repeat = 0; repeat < plan.nonzeros; ++repeat) {
        const Chunk chunk(plan, mask_of(plan, repeat, run.row, block), sketch);
        add_mapped(chunk, signs_of(plan, repeat, run.row, block), static_cast<int>(run.col % kBlockCols), run.width,
                   mapped, chunk.line(run.row & (plan.chunk_rows - 1)));
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

/// For kinds that use an entry more than once: Γ of a row first, then its places.
template <GammaKind kKind, class T, class M>
__attribute__((noinline)) void add_patch_often(const SketchPlan& plan, const Patch& patch, Entries<T> grads,
                                               Moments<M> moments, int64_t cols, const GammaTerms& terms, float* sketch,
                                               SquareNorms& norms) {
    const GammaTerms constants = terms;
    SquareSums sums;
    for (int r = 0; r < patch.height; ++r) {
        alignas(64) float mapped[kBlockCols];
        map_row<kKind>(grads.row(r), moments.template after<kKind>(r * cols), patch.width, constants, mapped, sums);
        const Run run{patch.row + r, patch.col, patch.width};
        if (plan.kind == ProjectionKind::kXor) {
            add_run_xor(plan, run, mapped, sketch);
        } else {
            add_run_rademacher(plan, run, mapped, sketch);
        }
    }
    SquareNorms own = sums.norms<kKind>();
    if (!held(own)) own = wide_norms<kKind>(grads, patch.height, patch.width, moments, cols, constants);
    norms += own;
}

template <GammaKind kKind, class T, class M>
inline void add_patch(const SketchPlan& plan, const Patch& patch, Entries<T> grads, Moments<M> moments, int64_t cols,
                      const GammaTerms& terms, float* sketch, SquareNorms& norms) {
    if (plan.kind != ProjectionKind::kXor || plan.nonzeros > 1) {
        add_patch_often<kKind>(plan, patch, grads, moments, cols, terms, sketch, norms);
        return;
    }
    const bool aligned = (patch.col & (patch.width - 1)) == 0;  // of a width that is a power of two
    if (aligned && patch.width == Vec::kLanes) {
        add_patch_once<kKind, 1>(plan, patch, grads, moments, cols, terms, sketch, norms);
    } else if (aligned && patch.width == 2 * Vec::kLanes) {
        add_patch_once<kKind, 2>(plan, patch, grads, moments, cols, terms, sketch, norms);
    } else if (aligned && patch.width == 4 * Vec::kLanes) {
        add_patch_once<kKind, 4>(plan, patch, grads, moments, cols, terms, sketch, norms);
    } else {
        add_patch_once<kKind, 0>(plan, patch, grads, moments, cols, terms, sketch, norms);
    }
}

template <class M>
inline Moments<M> moments_at(const MomentView& first, const MomentView& second, int64_t at) {
    const auto from = [&](const MomentView& moment) {
        return moment.data == nullptr ? nullptr : static_cast<const M*>(moment.data) + at;
    };
    return {from(first), from(second)};
}

/// Adds Γ of a patch to the sketch and its squares to the norms; `cols` is the stride of the moments.
/// Out of line behind this switch: inlined into a loop over tokens, the constants of Γ push the accumulators out of
/// registers, which cost a trial 60% of its speed.
template <GammaKind kKind, class T>
inline void add_patch(const SketchPlan& plan, const Patch& patch, Entries<T> grads, const MomentView& first,
                      const MomentView& second, int64_t cols, const GammaTerms& terms, float* sketch,
                      SquareNorms& norms) {
    const int64_t at = patch.row * cols + patch.col;
    // Both moments have one dtype, or the first is not read (check_moments).
    if (reads_second_moment(kKind) && second.dtype == Dtype::kBfloat16) {
        add_patch<kKind>(plan, patch, grads, moments_at<bf16>(first, second, at), cols, terms, sketch, norms);
    } else {
        add_patch<kKind>(plan, patch, grads, moments_at<float>(first, second, at), cols, terms, sketch, norms);
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
