"""`project_linear` in NumPy and float64: forms every G_b, maps it, sketches it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gradsift.ops._arrays import Array, store_row, to_float64
from gradsift.ops.gamma import apply_gamma
from gradsift.ops.projection import sketch
from gradsift.specs import Gamma, ProjectionSpec


def project_linear(
    activations: Array,
    output_grads: Array,
    spec: ProjectionSpec,
    param: str,
    cu_seqlens: np.ndarray | None,
    gamma: Gamma,
    moments: tuple[Array, Array] | None,
    out: Array,
    norms: Array | None,
    accumulate: bool,
    threads: int | None,
) -> None:
    a, g = to_float64(activations), to_float64(output_grads)
    if cu_seqlens is None:
        samples = list(zip(a, g, strict=True))
    else:
        spans = [slice(lo, hi) for lo, hi in pairwise(cu_seqlens)]
        samples = [(a[s], g[s]) for s in spans]
    m, v = (None, None) if moments is None else map(to_float64, moments)
    rows = np.arange(g.shape[-1])
    for b, (a_b, g_b) in enumerate(samples):
        G = g_b.T @ a_b
        update = apply_gamma(gamma, G, m, v)
        store_row(out, b, sketch(spec, param, rows, update[None])[0], accumulate)
        if norms is not None:
            store_row(norms, b, np.array([np.sum(G * G), np.sum(update * update)]), accumulate)
