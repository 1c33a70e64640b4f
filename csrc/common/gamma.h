#pragma once
#include <stdint.h>

namespace gradsift {

/// In the order of gradsift.specs.GAMMA_KINDS, where the formulas stand.
enum class GammaKind : int { kSgd = 0, kAdam, kLess, kAffine, kSecondMoment, kSign };

/// The map Γ from a gradient to an update direction.
struct Gamma {
    GammaKind kind = GammaKind::kSgd;
    double beta1 = 0.0;
    double beta2 = 0.0;
    double eps = 0.0;
    int64_t step = 0;
};

/// Throws std::invalid_argument unless the kind is known and 0 <= beta < 1, 2**-126 <= eps < 1, step >= 1 where they
/// are read.
void check_gamma(const Gamma& gamma);

// static: the per-ISA files read this header and must not emit shared inline functions.
static constexpr bool reads_first_moment(GammaKind kind) {
    return kind == GammaKind::kAdam || kind == GammaKind::kLess || kind == GammaKind::kAffine;
}
static constexpr bool reads_second_moment(GammaKind kind) {
    return reads_first_moment(kind) || kind == GammaKind::kSecondMoment;
}

/// Γ as kernels evaluate it, bias corrections folded in:
/// (first_m · m + first_g · g) / (√(second_v · v + second_g · g² + inner_eps) + eps).
struct GammaTerms {
    GammaKind kind;
    float first_m, first_g;
    float second_v, second_g;
    float inner_eps, eps;
};

GammaTerms gamma_terms(const Gamma& gamma);

}  // namespace gradsift
