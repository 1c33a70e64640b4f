#include "common/gamma.h"

#include <cmath>
#include <limits>

#include "common/check.h"

namespace gradsift {

void check_gamma(const Gamma& gamma) {
    const int kind = static_cast<int>(gamma.kind);
    require(kind >= 0 && kind <= static_cast<int>(GammaKind::kSign), "gamma kind: expected 0 to 5, got ", kind);
    if (!reads_second_moment(gamma.kind)) return;
    require(gamma.beta1 >= 0 && gamma.beta1 < 1, "beta1: expected 0 <= beta1 < 1, got ", gamma.beta1);
    require(gamma.beta2 >= 0 && gamma.beta2 < 1, "beta2: expected 0 <= beta2 < 1, got ", gamma.beta2);
    // As a float eps must not be 0: Γ(0) = 0/eps would be NaN.
    require(gamma.eps >= std::numeric_limits<float>::min() && gamma.eps < 1, "eps: expected 2**-126 <= eps < 1, got ",
            gamma.eps);
    require(gamma.kind == GammaKind::kLess || gamma.step >= 1, "step: expected a count >= 1, got ", gamma.step);
}

GammaTerms gamma_terms(const Gamma& gamma) {
    GammaTerms terms{gamma.kind, 0, 0, 0, 0, 0, 0};
    if (!reads_second_moment(gamma.kind)) return terms;
    const bool less = gamma.kind == GammaKind::kLess;
    const bool adam = gamma.kind == GammaKind::kAdam;
    const auto step = static_cast<double>(gamma.step);
    const double first = less ? 1.0 : 1.0 - std::pow(gamma.beta1, step + 1);
    const double second = less ? 1.0 : 1.0 - std::pow(gamma.beta2, adam ? step + 1 : step);
    terms.first_m = static_cast<float>(gamma.beta1 / first);
    terms.first_g = static_cast<float>((1.0 - gamma.beta1) / first);
    terms.second_v = static_cast<float>((adam || less ? gamma.beta2 : 1.0) / second);
    terms.second_g = static_cast<float>((1.0 - gamma.beta2) / second);
    (less ? terms.inner_eps : terms.eps) = static_cast<float>(gamma.eps);
    return terms;
}

}  // namespace gradsift
