"""The best of a pool by cheaper scores first: which rows they leave in question, and the exact scores of those.

Rows of bfloat16 meet columns that bfloat16 holds in half the operations (docs/scoring.md). A scan against rounded
columns misses a row's influence by a known margin at most; so the k best by exact scores are among the rows within
twice that of the k-th best by rounded ones, and only those are scored again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gradsift.datastore import Datastore
from gradsift.ops.score_rows import faster_if_rounded
from gradsift.selection.choosing import Wish
from gradsift.selection.influence import Columns
from gradsift.selection.problem import Problem
from gradsift.selection.scan import Pool, score_positions
from gradsift.selection.stored import stored_format

_ROUNDED_TO = "bfloat16"
# Below this, reading rows takes as long as multiplying exact columns.
_LEAST_COLUMNS = 8
# A larger share of the pool is hardly fewer operations.
_MOST_SELECTED = 1 / 8
# What the float32 arithmetic of each scan may miss by from this many numbers a row on (docs/scoring.md).
_LEAST_NUMBERS, _ARITHMETIC = 256, 1e-6


@dataclass(frozen=True)
class Screen:
    """Rounded columns, and by how much an influence by them may differ from the exact one."""

    columns: Columns
    margin: float


def screen_for(problem: Problem, wish: Wish) -> Screen | None:
    """What to scan against first where that saves time and changes nothing in what is selected; else None."""
    count = wish.budget.samples(len(problem.ids))
    if count is None or count > _MOST_SELECTED * len(problem.ids):
        return None
    if wish.selector.name != "top" or wish.deduplicate is not None:
        return None
    if len(problem.columns.names) < _LEAST_COLUMNS or problem.candidates[0].proj_dim < _LEAST_NUMBERS:
        return None
    for source in problem.candidates:
        read_again_for_little = isinstance(source, Datastore) and source.mapped
        if not read_again_for_little or not faster_if_rounded(stored_format(source).dtype):
            return None
    rounded = problem.columns.rounded(_ROUNDED_TO)
    # |⟨t̃ − t, z⟩| ≤ ‖t̃ − t‖ for a row z of norm one
    moved = sum(
        weight * np.linalg.norm(new.astype(np.float64) - old, axis=1)
        for weight, new, old in zip(problem.weights, rounded.at, problem.columns.at, strict=True)
    )
    margin = np.mean(moved) if problem.reduce == "mean" else np.max(moved)
    return Screen(rounded, float(margin) + 2 * _ARITHMETIC)


def settle(pool: Pool, screen: Screen, problem: Problem, wish: Wish) -> Pool:
    """`pool`, scored against `screen`, with exact scores where a row may be selected, and no other row to be chosen."""
    count = wish.budget.samples(len(problem.ids)) or 0
    eligible = np.flatnonzero(pool.reason == 0)
    if not len(eligible):
        return pool
    influence = pool.influence[eligible]
    last = np.partition(influence, -count)[-count] if count < len(eligible) else influence.min()
    positions = eligible[influence >= last - 2 * screen.margin]
    exact, best = score_positions(
        problem.candidates, len(problem.ids), positions, problem.columns, problem.weights, reduce=problem.reduce
    )
    fresh = replace(
        pool, influence=pool.influence.copy(), best=pool.best.copy(), rescored=np.zeros(len(pool.best), bool)
    )
    fresh.influence[positions], fresh.best[positions] = exact, best
    assert fresh.rescored is not None
    fresh.rescored[positions] = True
    return fresh
