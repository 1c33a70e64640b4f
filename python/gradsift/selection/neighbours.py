"""The rows of the pool that are nearest to some of its rows, by scanning it for many of them at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.problem import Problem
from gradsift.selection.rows import PoolRows
from gradsift.selection.scan import scan
from gradsift.selection.selectors.turns import BestOfEach

# Columns of one scan: as many as make the arithmetic, and not reading the rows, what it costs.
_AT_ONCE = 256


def nearest_rows(
    problem: Problem, positions: np.ndarray, count: int, progress: Callable[[int, int], object] | None = None
) -> list[list[tuple[int, float]]]:
    """For each row at `positions`, which must be eligible, its `count` nearest others: (position, similarity).

    By ``Σ_c η_c cos(row_c, other_c)``, nearest first, ties to the smaller row number. n rows cost 2·n·N·P·C operations
    and read the pool n/256 times.
    """
    reader = PoolRows(problem.candidates, np.ones(len(problem.candidates)))
    found = []
    for first in range(0, len(positions), _AT_ONCE):
        part = positions[first : first + _AT_ONCE]
        rows = reader.take(part)
        names = [f"row {position}" for position in part.tolist()]
        at = [(own * scale[:, None]).astype(np.float32) for own, scale in zip(rows.at, rows.scales, strict=True)]
        watched = BestOfEach(count + 1, len(part))  # one more, since each is nearest to itself
        scan(
            problem.candidates,
            len(problem.ids),
            Columns(at, [*names], names, {}),
            problem.weights,
            reduce="max",
            observer=watched,
            progress=None if progress is None else _shifted(progress, first, len(part), len(positions)),
        )
        for position, queue in zip(part.tolist(), watched.queues(), strict=True):
            best = queue.first(count + 1)
            pairs = zip(best.positions.tolist(), best.scores.tolist(), strict=True)
            found.append([pair for pair in pairs if pair[0] != position][:count])
    return found


def _shifted(progress: Callable[[int, int], object], first: int, n: int, whole: int) -> Callable[[int, int], object]:
    """Rows of one scan of several, as a part of all that are done."""
    return lambda done, total: progress(first * total + n * done, whole * total)
