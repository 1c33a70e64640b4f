"""The definition of `score_rows`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradsift.ops.quantise import reference as quantised
from gradsift.ops.score_rows.blocks import QUANTISED, ROW_FORMATS, STATUS_NONFINITE, STATUS_ZERO, BlockScores, Part


@dataclass(frozen=True)
class PreparedTargets:
    targets: np.ndarray
    dtype: str
    seed: int


def prepare_targets(targets: np.ndarray, dtype: str, seed: int) -> PreparedTargets:
    return PreparedTargets(targets.astype(np.float64), dtype, seed)


def score_rows(
    parts: Sequence[Part],
    out: BlockScores,
    *,
    reduce: str,
    excluded: np.ndarray | None,
    hide: int,
    threads: int | None,
) -> None:
    """``Σ_c weight_c · ⟨row, target⟩ / ‖row‖`` of every row and column, 0 for a row of zeros, then over columns."""
    n, columns = parts[0].rows.shape[0], parts[0].targets.targets.shape[0]
    total = np.zeros((n, columns))
    status = np.zeros(n, np.uint8)
    for part in parts:
        x = numbers(part)
        finite = np.isfinite(x).all(axis=1)
        x[~finite] = 0.0
        norm = np.linalg.norm(x, axis=1)
        status |= np.where(finite, np.where(norm == 0, STATUS_ZERO, 0), STATUS_NONFINITE).astype(np.uint8)
        norm[norm == 0.0] = 1.0
        one = ((x @ part.targets.targets.T) / norm[:, None]).astype(np.float32)
        total += part.weight * one.astype(np.float64)
        if part.scores is not None:
            part.scores[:] = np.where(finite[:, None], one, np.float32(np.nan))
    scores = total.astype(np.float32)
    hidden = (status & hide) != 0
    if excluded is not None:
        hidden |= excluded != 0
    best = np.where(hidden, 0, scores.argmax(axis=1))
    scores[hidden] = np.nan
    if out.status is not None:
        out.status[:] = status
    if out.scores is not None:
        out.scores[:] = scores
    if out.best is not None:
        out.best[:] = best
    if out.influence is not None:
        mean = scores.astype(np.float64).mean(axis=1)
        out.influence[:] = mean if reduce == "mean" else scores[np.arange(n), best]


def numbers(part: Part) -> np.ndarray:
    """The rows of `part` in float64."""
    dtype, seed, proj_dim = part.targets.dtype, part.targets.seed, part.targets.targets.shape[1]
    if dtype in QUANTISED:
        rows = np.empty((len(part.rows), proj_dim), np.float32)
        assert part.scales is not None
        quantised.dequantise_rows(part.rows, part.scales, ROW_FORMATS[dtype][1], seed, rows, None)
        return rows.astype(np.float64)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(part.rows).view(np.uint16).astype(np.uint32) << 16
        return np.asarray(bits.view(np.float32), np.float64)
    return np.array(part.rows, np.float64)
