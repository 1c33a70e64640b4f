"""Contributions to one parameter's per-sample gradients, and how they become a sketch.

A use keeps the factors of a gradient, as the parameter is *stored*; several uses of one parameter (a module called
twice, tied weights) add up before Γ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gradsift.collector.transfer import to_device

# torch has this op for no other device.
_HAVE_SEGMENT_REDUCE = ("cpu", "cuda", "meta")


@dataclass(frozen=True)
class OuterUse:
    """``G_b = Σ left[t]ᵀ right[t]`` over sample b's tokens: left (R, rows), right (R, columns), one dtype."""

    left: torch.Tensor
    right: torch.Tensor
    offsets: np.ndarray

    def add_dense(self, b: int, grad: torch.Tensor) -> None:
        span = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        grad.addmm_(self.left[span].float().T, self.right[span].float())


@dataclass(frozen=True)
class RowsUse:
    """Gradients formed already: (B, *shape) float32."""

    grads: torch.Tensor

    def add_dense(self, b: int, grad: torch.Tensor) -> None:
        grad.add_(self.grads[b])


@dataclass(frozen=True)
class SparseUse:
    """Sample b's gradient has ``grads[t]`` (R, d) float32 added at row ``rows[t]``; zero elsewhere."""

    rows: torch.Tensor
    grads: torch.Tensor
    offsets: np.ndarray

    def add_dense(self, b: int, grad: torch.Tensor) -> None:
        span = slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        grad.index_add_(0, self.rows[span], self.grads[span])


Use = OuterUse | RowsUse | SparseUse


def sample_index(offsets: np.ndarray, device: torch.device) -> torch.Tensor:
    """The sample of each row, (R,) int64."""
    return to_device(torch.from_numpy(np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))), device)


def sum_by_sample(values: torch.Tensor, offsets: np.ndarray) -> torch.Tensor:
    """(B, d) float32 sums of `values` (R, d) over each sample's rows."""
    out = torch.zeros(len(offsets) - 1, values.shape[-1], device=values.device)
    for b in range(len(offsets) - 1):
        out[b] = values[int(offsets[b]) : int(offsets[b + 1])].float().sum(0)
    return out


def sum_segments(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Sums of the first ``lengths[0]`` rows of `values`, the next ``lengths[1]``, …, which together are all of them."""
    if values.device.type not in _HAVE_SEGMENT_REDUCE:
        segment = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
        return values.new_zeros(len(lengths), *values.shape[1:]).index_add(0, segment, values)
    # In the rows' own order, which index_add on a GPU does not keep; "unsafe" does not read lengths to check them.
    sums: torch.Tensor = torch.segment_reduce(values, "sum", lengths=lengths, axis=0, unsafe=True)
    return sums


def join_outer(uses: Sequence[OuterUse]) -> OuterUse:
    """One use with each sample's tokens of all `uses`."""
    if len(uses) == 1:
        return uses[0]
    device = uses[0].left.device
    dtypes = {u.left.dtype for u in uses}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    sample = torch.cat([sample_index(u.offsets, device) for u in uses])
    order = torch.argsort(sample, stable=True)
    left = torch.cat([u.left.to(dtype) for u in uses])[order]
    right = torch.cat([u.right.to(dtype) for u in uses])[order]
    return OuterUse(left, right, np.asarray(sum(u.offsets for u in uses)))


def join_sparse(uses: Sequence[SparseUse], n_rows: int) -> SparseUse:
    """One use in which every row stands once a sample."""
    device = uses[0].grads.device
    sample = torch.cat([sample_index(u.offsets, device) for u in uses])
    key = sample * n_rows + torch.cat([u.rows for u in uses])
    grads = torch.cat([u.grads for u in uses])
    unique, times = torch.unique(key, return_counts=True)
    summed = sum_segments(grads[torch.argsort(key, stable=True)], times)
    counts = torch.bincount(unique // n_rows, minlength=len(uses[0].offsets) - 1).cpu().numpy()
    return SparseUse(unique % n_rows, summed, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
