"""`project_rows` in NumPy and float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from gradsift.ops._arrays import Array, store_row, to_float64
from gradsift.ops.gamma import apply_gamma
from gradsift.ops.projection import sketch
from gradsift.specs import Gamma, ProjectionSpec


def project_rows(
    grads: Array,
    spec: ProjectionSpec,
    param: str,
    shape: tuple[int, int],
    row_ids: np.ndarray | None,
    cu_seqlens: np.ndarray | None,
    gamma: Gamma,
    moments: tuple[Array, Array] | None,
    out: Array,
    norms: Array | None,
    accumulate: bool,
    threads: int | None,
) -> None:
    g = to_float64(grads)
    m, v = (None, None) if moments is None else map(to_float64, moments)
    if row_ids is None or cu_seqlens is None:
        samples = [(np.arange(shape[0]), G.reshape(shape)) for G in g]
    else:
        spans = [slice(lo, hi) for lo, hi in pairwise(cu_seqlens)]
        samples = [(row_ids[s], g[s]) for s in spans]
    for b, (rows, G) in enumerate(samples):
        update = apply_gamma(gamma, G, None if m is None else m[rows], None if v is None else v[rows])
        store_row(out, b, sketch(spec, param, rows, update[None])[0], accumulate)
        if norms is not None:
            store_row(norms, b, np.array([np.sum(G * G), np.sum(update * update)]), accumulate)
