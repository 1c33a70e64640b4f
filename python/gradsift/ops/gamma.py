"""The map Γ from a gradient to an update direction, in float64: the definition for every backend."""

from __future__ import annotations

from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from gradsift.specs import Gamma

Float64: TypeAlias = npt.NDArray[np.float64]


def apply_gamma(gamma: Gamma, g: Float64, m: Float64 | None = None, v: Float64 | None = None) -> Float64:
    """Γ(g) elementwise, formulae in `Gamma`'s class methods.

    `g` (…, d_out, d_in); `m`, `v` the moments ``exp_avg`` and ``exp_avg_sq`` of shape (d_out, d_in), read only by the
    kinds whose ``needs_moments`` is true. All float64.
    """
    if gamma.kind == "sgd":
        return g
    if gamma.kind == "sign":
        return np.sign(g)
    # Gamma and the ops have checked that what a kind reads is there.
    m, v = cast("tuple[Float64, Float64]", (m, v))
    b1, b2, eps, t = cast("tuple[float, float, float, int]", (gamma.beta1, gamma.beta2, gamma.eps, gamma.step))
    if gamma.kind == "second_moment":
        return g / (np.sqrt(v / (1 - b2**t)) + eps)
    m_next = b1 * m + (1 - b1) * g
    v_next = b2 * v + (1 - b2) * g * g
    if gamma.kind == "less":
        return m_next / np.sqrt(v_next + eps)
    m_hat = m_next / (1 - b1 ** (t + 1))
    if gamma.kind == "affine":
        return m_hat / (np.sqrt(v / (1 - b2**t)) + eps)
    return m_hat / (np.sqrt(v_next / (1 - b2 ** (t + 1))) + eps)
