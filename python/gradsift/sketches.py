"""The one object that passes from whoever makes sketches to whoever keeps or scores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Sketches:
    """Sketches of B samples with what the same pass learned about each.

    Attributes
    ----------
    rows : (B, P) float32
        ``S · Γ(g)``, not normalised. A sample without label tokens has a row of zeros.
    grad_norm, gamma_norm : (B,) float64
        Exact Euclidean norms of the sample's gradient and of its update direction, before projection.
    loss : (B,) float32
        Mean loss over the sample's own label tokens; 0 where there are none.
    tokens : (B,) int64
        Number of label tokens.
    """

    rows: np.ndarray
    grad_norm: np.ndarray
    gamma_norm: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Sketches:
        """Rows `index` (a slice or an array of positions), in that order."""
        return Sketches(
            self.rows[index], self.grad_norm[index], self.gamma_norm[index], self.loss[index], self.tokens[index]
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Sketches]) -> Sketches:
        """All rows of `parts`, in order; at least one part."""
        return cls(
            *(
                np.concatenate([getattr(p, f) for p in parts])
                for f in ("rows", "grad_norm", "gamma_norm", "loss", "tokens")
            )
        )


class SketchSink(Protocol):
    """Takes sketches as they are collected: a datastore's writer, a scorer, a list in a test."""

    def append(self, ids: Sequence[str] | Sequence[int], sketches: Sketches) -> None: ...
