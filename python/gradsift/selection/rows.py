"""Rows of the pool by position, ready for cosines with one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradsift.selection.sources import RowSource, take_rows


@dataclass(frozen=True)
class UnitRows:
    """n rows at C checkpoints.

    Attributes
    ----------
    positions : (n,) int64
    at : C arrays (n, P) float32, each row divided by a power of two, which is exact, so that its largest entry is
        0.5 … 1: products of rows of any norm stay in range
    scales : C arrays (n,) float64, ``√η̄_c / ‖row‖``
    """

    positions: np.ndarray
    at: list[np.ndarray]
    scales: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: np.ndarray) -> UnitRows:
        return UnitRows(self.positions[index], [a[index] for a in self.at], [s[index] for s in self.scales])

    def cosines(self, other: UnitRows) -> np.ndarray:
        """``Σ_c η̄_c cos(a_c, b_c)``, (n, len(other)) float64 of products in float32."""
        total = np.zeros((len(self), len(other)))
        for a, a_scale, b, b_scale in zip(self.at, self.scales, other.at, other.scales, strict=True):
            products = (a @ b.T).astype(np.float64)
            products *= a_scale[:, None]
            products *= b_scale
            total += products
        return total

    def exact_cosine(self, i: int, other: UnitRows, j: int) -> float:
        """The same of one pair, in float64."""
        return float(
            sum(
                (a[i].astype(np.float64) @ b[j].astype(np.float64)) * a_scale[i] * b_scale[j]
                for a, a_scale, b, b_scale in zip(self.at, self.scales, other.at, other.scales, strict=True)
            )
        )


class PoolRows:
    """Reads rows of the pool from its sources, one a checkpoint, by position."""

    def __init__(self, sources: Sequence[RowSource], weights: np.ndarray) -> None:
        used = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight > 0]
        self._sources = [source for source, _ in used]
        self._weights = [float(weight) for _, weight in used]
        self.row_bytes = 4 * sum(source.proj_dim for source in self._sources)

    def take(self, positions: Sequence[int] | np.ndarray) -> UnitRows:
        """The rows at `positions`, which must be eligible: finite and not zero."""
        at, scales = [], []
        wanted = np.asarray(positions, np.int64)
        for source, weight in zip(self._sources, self._weights, strict=True):
            rows = take_rows(source, wanted)
            _, exponents = np.frexp(np.abs(rows).max(axis=1, initial=0.0))
            rows = np.ldexp(rows, -exponents[:, None]).astype(np.float32, copy=False)
            norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
            at.append(rows)
            scales.append(np.sqrt(weight) / norms)
        return UnitRows(wanted, at, scales)
