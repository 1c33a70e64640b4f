"""Other people's projections to `proj_dim` numbers, each in the form that runs best."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

# Columns a step: index, sign and product of 8 rows stay in the cache.
BLOCK = 131072
TRAKER_BLOCK = 128
"""Columns of the matrix that LESS has traker hold at a time."""


class TorchSjlt:
    """One signed entry an input (SJLT, s = 1) by `index_add_` or `scatter_add_`, in blocks, with reused buffers.

    Keeps an index (int64: with int32 `index_add_` takes a path ten times as slow) and a sign for each entry.
    """

    def __init__(self, entries: int, proj_dim: int, rows: int, seed: int, form: str) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.index = torch.randint(proj_dim, (entries,), generator=generator)
        self.sign = torch.randint(2, (entries,), generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)
        self.out = torch.empty(rows, proj_dim)
        self.signed = torch.empty(rows, min(BLOCK, entries))
        self.scatter = form == "scatter_add_"

    def __call__(self, grads: torch.Tensor) -> torch.Tensor:
        """(rows, entries) → (rows, proj_dim), overwritten by the next call."""
        self.out.zero_()
        for start in range(0, grads.shape[1], BLOCK):
            part = grads[:, start : start + BLOCK]
            stop = start + part.shape[1]
            signed = torch.mul(part, self.sign[start:stop], out=self.signed[:, : part.shape[1]])
            if self.scatter:
                self.out.scatter_add_(1, self.index[start:stop].expand_as(signed), signed)
            else:
                self.out.index_add_(1, self.index[start:stop], signed)
        return self.out


SJLT_FORMS = ("index_add_", "scatter_add_")


def traker_projector(entries: int, columns: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    """traker's BasicProjector with LESS's settings, the one it falls back to without CUDA."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trak.projectors import BasicProjector, ProjectionType
    return BasicProjector(
        grad_dim=entries,
        proj_dim=columns,
        seed=seed,
        proj_type=ProjectionType.rademacher,
        device=torch.device("cpu"),
        block_size=TRAKER_BLOCK,
        dtype=dtype,
    )


def traker_seconds(
    entries: int, proj_dim: int, rows: int, dtype: torch.dtype, *, slice_entries: int, rounds: int = 3
) -> tuple[float, str]:
    """Seconds of ``BasicProjector.project`` of (rows, entries), and how they were found.

    Its time is drawing each of entries · proj_dim values in every call and multiplying by it, both linear in either
    number. So two blocks of `slice_entries` rows of the matrix are measured (one block alone is drawn once and kept)
    and scaled.
    """
    measured = min(entries, slice_entries)
    projector = traker_projector(measured, 2 * TRAKER_BLOCK, dtype)
    grads = torch.randn(rows, measured).to(dtype)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        projector.project(grads, 0)
        taken.append(time.perf_counter() - start)
    scale = entries / measured * proj_dim / (2 * TRAKER_BLOCK)
    return min(taken) * scale, f"{measured} of {entries} entries, 256 of {proj_dim} columns, best of {rounds}, scaled"


def sklearn_projector(entries: int, proj_dim: int, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """scikit-learn's SparseRandomProjection at its default density, 1/√entries, fitted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.random_projection import SparseRandomProjection
    projection = SparseRandomProjection(n_components=proj_dim, random_state=seed)
    # `fit` looks only at the shape; a row of zeros that takes no memory will do.
    projection.fit(np.broadcast_to(np.float32(0), (1, entries)))
    return projection.transform
