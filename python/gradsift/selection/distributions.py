"""What a report draws of a selection: counts in bins and a few rows by name, however large the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.scan import Pool, ScoreSample
from gradsift.selection.sources import SampleId

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_BINS = range(12, 37)
_POINTS_OF_POOL, _POINTS_OF_SELECTION = 600, 300
_LANDMARKS = 3


def distributions(
    pool: Pool,
    sample: ScoreSample,
    columns: Columns,
    weights: np.ndarray,
    positions: np.ndarray,
    ids: Sequence[SampleId | None],
) -> dict[str, Any]:
    """Selected against pool, as JSON values: influence and label tokens in bins, quantiles, points, landmarks.

    ``positions`` are the selected rows. Quantiles by subtask, and points, are of `sample`; bins are of all rows.
    """
    usable = pool.reason == 0
    chosen = np.zeros(len(usable), bool)
    chosen[positions] = True
    influence = pool.influence.astype(np.float64)
    known = bool((pool.tokens[usable] >= 0).all())
    # as many as the selected rows fill without gaps
    bins = min(max(round(2 * len(positions) ** 0.5), _BINS.start), _BINS.stop - 1)
    lengths = _length_edges(pool.tokens[usable], bins) if known else None
    record: dict[str, Any] = {
        "influence": _bins(influence, _even_edges(influence[usable], bins), usable, chosen),
        "label_tokens": None if lengths is None else _bins(pool.tokens, lengths, usable, chosen),
        "subtasks": _quantiles(sample, columns, weights, usable, chosen),
        "points": _points(pool, sample, usable, chosen, positions) if known else None,
    }
    return record | {"landmarks": _landmarks(influence, usable, ids)}


def _even_edges(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def _length_edges(tokens: np.ndarray, bins: int) -> np.ndarray:
    """Whole numbers, evenly spaced on a logarithmic axis."""
    low, high = max(1, int(tokens.min())), int(tokens.max()) + 1
    return np.unique(np.geomspace(low, max(high, low + 1), bins + 1).round().astype(np.int64))


def _bins(values: np.ndarray, edges: np.ndarray, usable: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    return {
        "edges": edges.tolist(),
        "pool": np.histogram(values[usable], edges)[0].tolist(),
        "selected": np.histogram(values[chosen], edges)[0].tolist(),
    }


def _quantiles(
    sample: ScoreSample, columns: Columns, weights: np.ndarray, usable: np.ndarray, chosen: np.ndarray
) -> list[dict[str, Any]]:
    """Of each subtask's weighted score; where every target has a column, of the highest of them."""
    total = np.tensordot(weights, sample.scores.astype(np.float64), axes=1)
    found = []
    for subtask in columns.sizes:
        mine = [j for j, of in enumerate(columns.subtask) if of == subtask]
        score = total[:, mine].max(axis=1)
        row: dict[str, Any] = {"subtask": subtask, "targets": columns.sizes[subtask]}
        for name, mask in (("pool", usable), ("selected", chosen)):
            part = score[mask[sample.positions]]
            row[name] = {"rows": len(part), "quantiles": np.quantile(part, QUANTILES).tolist() if len(part) else None}
        found.append(row)
    return found


def _points(
    pool: Pool, sample: ScoreSample, usable: np.ndarray, chosen: np.ndarray, positions: np.ndarray
) -> dict[str, Any]:
    others = sample.positions[usable[sample.positions] & ~chosen[sample.positions]]
    parts = {}
    for name, rows, most in (
        ("pool", others, _POINTS_OF_POOL),
        ("selected", positions, _POINTS_OF_SELECTION),
    ):
        some = rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)]
        parts[name] = {
            "label_tokens": pool.tokens[some].tolist(),
            "influence": [round(float(v), 6) for v in pool.influence[some]],
        }
    return parts


def _landmarks(influence: np.ndarray, usable: np.ndarray, ids: Sequence[SampleId | None]) -> dict[str, Any]:
    """Rows in the middle and at the bottom of the ranking by influence, best first."""
    rows = np.flatnonzero(usable)
    order = rows[np.lexsort((rows, -influence[rows]))]
    start = max(0, (len(order) - _LANDMARKS) // 2)
    found = {}
    for name, at in (
        ("middle", range(start, min(start + _LANDMARKS, len(order)))),
        ("worst", range(max(0, len(order) - _LANDMARKS), len(order))),
    ):
        found[name] = [
            {"id": ids[order[i]], "position": int(order[i]), "rank": i + 1, "influence": float(influence[order[i]])}
            for i in at
        ]
    return found
