"""The definition of `score_rows`."""

from __future__ import annotations

import numpy as np


def score_rows(rows: np.ndarray, targets: np.ndarray, out: np.ndarray) -> None:
    """Write ``out[i, s] = ⟨rows[i], targets[s]⟩ / ‖rows[i]‖``, 0 for a row of zeros, NaN for one that is not finite."""
    x = rows.astype(np.float64)
    finite = np.isfinite(x).all(axis=1)
    x[~finite] = 0.0
    norm = np.linalg.norm(x, axis=1)
    norm[norm == 0.0] = 1.0
    out[...] = (x @ targets.astype(np.float64).T) / norm[:, None]
    out[~finite] = np.nan
