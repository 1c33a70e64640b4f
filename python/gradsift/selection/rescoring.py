"""Scores of the best rows of a pool once more, from stores of a finer dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gradsift.errors import DatastoreIncompleteError, SpecMismatchError
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.selection.choosing import Wish
from gradsift.selection.problem import Problem
from gradsift.selection.scan import Pool
from gradsift.selection.selectors.queues import best_first
from gradsift.selection.sources import RowSource, check_pair, open_sources, row_ids, take_rows

RESCORED_PER_SELECTED = 5
_ROWS_AT_ONCE = 1024


def open_finer(stores: Sequence[Any], problem: Problem, wish: Wish) -> list[RowSource]:
    """`stores` as sources of the rows of `problem`, in another dtype; refuses a wish of no known number of the best."""
    if wish.selector.name != "top":
        raise ValueError(f"rescore: expected selector 'top', got {wish.selector.name!r}; pass rescore=None")
    if wish.budget.samples(len(problem.ids)) is None:
        raise ValueError("rescore: expected a budget in samples, got one in tokens; pass rescore=None")
    known = [i for i in problem.ids if i is not None]
    arrays = isinstance(stores, Sequence) and not any(hasattr(store, "blocks") for store in stores)
    sources = open_sources("rescore", stores, known if arrays and len(known) == len(problem.ids) else None)
    if len(sources) != len(problem.candidates):
        raise ValueError(
            f"rescore: expected {len(problem.candidates)}, one per checkpoint as candidates, got {len(sources)}"
        )
    for c, (source, target, candidate) in enumerate(zip(sources, problem.targets, problem.candidates, strict=True)):
        check_pair(f"candidates[{c}]", candidate, f"rescore[{c}]", source)
        check_pair(f"targets[{c}]", target, f"rescore[{c}]", source)
    ids = row_ids("rescore", sources, allow_partial=True)
    for row, (want, got) in enumerate(zip(problem.ids, ids, strict=False)):
        if want is not None and want != got:
            raise SpecMismatchError(
                f"rescore: expected the ids of candidates in the same order, got {got!r} instead of {want!r} in row "
                f"{row}; collect the same samples in the same order"
            )
    if len(ids) < len(problem.ids):
        raise SpecMismatchError(
            f"rescore: expected {len(problem.ids)} rows as candidates has, got {len(ids)}; convert the whole store"
        )
    wanted = np.logical_and.reduce([_there(candidate, len(ids)) for candidate in problem.candidates])
    for c, source in enumerate(sources):
        absent = np.flatnonzero(wanted & ~_there(source, len(ids)))
        if len(absent):
            raise DatastoreIncompleteError(
                f"rescore[{c}]: expected the rows that all candidates have, got a store that lacks {len(absent)} of "
                f"them, row {absent[0]} first; convert the whole store"
            )
    return sources


def _there(source: RowSource, n_rows: int) -> np.ndarray:
    """(n_rows,) bool: the rows that `source` has."""
    gaps = source.gaps()
    there = np.arange(n_rows) < len(source) + sum(len(gap) for gap in gaps)
    for gap in gaps:
        there[gap.start : gap.stop] = False
    return there


def score_again(pool: Pool, sources: Sequence[RowSource], problem: Problem, wish: Wish) -> Pool:
    """`pool` with the scores of its best ``5 · k`` rows taken from `sources`, and no other row to be chosen.

    Best is by the scores that `pool` has, ties to the smaller row number. A row that `sources` hold as zeros or not
    finite is not to be chosen either. `pool.scores` is not copied: the new scores are written into it.
    """
    count = wish.budget.samples(len(problem.ids)) or 0
    eligible = np.flatnonzero(pool.reason == 0)
    order = best_first(pool.influence[eligible], eligible, min(len(eligible), RESCORED_PER_SELECTED * count))
    positions = np.sort(eligible[order])
    scorer = RowScorer(
        problem.columns.at,
        problem.weights.tolist(),
        ["float32"] * len(sources),
        reduce="mean" if problem.reduce == "mean" else "max",
    )
    fresh = replace(
        pool, influence=pool.influence.copy(), best=pool.best.copy(), rescored=np.zeros(len(pool.best), bool)
    )
    for first in range(0, len(positions), _ROWS_AT_ONCE):
        part = positions[first : first + _ROWS_AT_ONCE]
        n = len(part)
        out = BlockScores(
            influence=np.empty(n, np.float32),
            best=np.empty(n, np.int32),
            scores=None if pool.scores is None else np.empty((n, scorer.n_columns), np.float32),
        )
        scorer.score([take_rows(source, part) for source in sources], out)
        assert fresh.rescored is not None
        assert out.influence is not None
        there = np.isfinite(out.influence)
        fresh.rescored[part] = there
        for name in ("influence", "best", "scores"):
            kept, found = getattr(fresh, name), getattr(out, name)
            if kept is not None:
                kept[part[there]] = found[there]
    return fresh
