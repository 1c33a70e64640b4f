"""What is measured of a scored pool, for the record and for reports."""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def pool_measures(influence: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation and quantiles of the influence of the eligible rows, and its tie to length.

    ``spearman_label_tokens`` is the rank correlation of influence and label tokens; None where tokens are not known or
    one of the two is constant. Gradient norms shrink with length, and a score that follows it selects by it.
    """
    values = influence.astype(np.float64)
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)},
        "spearman_label_tokens": spearman(values, tokens) if (tokens >= 0).all() else None,
    }


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson correlation of the ranks of x and y, equals sharing their mean rank; None if one of them is constant."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0.0 else None


def _centred_ranks(x: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts - 1) / 2
    ranks: np.ndarray = mean_rank[place] - (len(x) + 1) / 2
    return ranks
