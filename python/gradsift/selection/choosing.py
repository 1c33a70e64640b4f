"""From a scored pool to a selection: what was asked for, and the selector's work."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradsift
from gradsift.errors import DataError
from gradsift.selection.diagnostics import diagnose
from gradsift.selection.distributions import distributions
from gradsift.selection.influence import Columns
from gradsift.selection.measures import pool_measures
from gradsift.selection.output import FORMAT, VERSION, Selection
from gradsift.selection.problem import Problem
from gradsift.selection.rows import PoolRows
from gradsift.selection.scan import EXCLUDED_BECAUSE, Observer, Pool, ScoreSample
from gradsift.selection.selectors import (
    BudgetRequest,
    Collapse,
    Scored,
    Selector,
    check_seed,
    check_threshold,
    fill,
    make_selector,
)
from gradsift.selection.sources import SampleId, ids_digest

# A share above this of pairs drawn at random is no share of copies.
_MANY_NEAR = 0.001
_PAIRED_ROWS = 512
_QUANTILES = (0.5, 0.9, 0.99, 0.999)
_SEEDED = ("random", "knn_kde")


@dataclass(frozen=True)
class Wish:
    """What is to be chosen of N rows, checked before anything is scored.

    Attributes
    ----------
    selector : Selector
    budget : BudgetRequest
    depth : most rows that are taken off the selector's plan, None where that is not known before
    deduplicate, seed : as `select` was given
    lengths : (N,) int64 or None
    groups : (N,) names or None
    settings : what ``selection.json`` says of it
    """

    selector: Selector
    budget: BudgetRequest
    depth: int | None
    deduplicate: float | None
    seed: int
    lengths: np.ndarray | None
    groups: Sequence[str] | None
    settings: dict[str, Any]

    def needs_scores(self, columns: Columns) -> bool:
        return self.selector.needs_scores(columns, self.depth)

    @property
    def needs_rows(self) -> bool:
        return self.selector.needs_rows or self.deduplicate is not None


def make_wish(
    n_rows: int,
    *,
    selector: str,
    options: Mapping[str, Any] | None,
    reduce: str,
    fraction: float | None,
    count: int | None,
    budget: str,
    deduplicate: float | None,
    seed: int,
    lengths: Sequence[int] | np.ndarray | None,
    groups: Sequence[str] | None,
) -> Wish:
    """Checks what `select` was asked for; raises what it says it raises."""
    chosen = make_selector(selector, options)
    chosen.check(reduce)
    request = BudgetRequest.of(fraction, count, budget, n_rows, needed=chosen.needs_budget)
    threshold = check_threshold(deduplicate)
    check_seed(seed)
    names = _checked_groups(groups, n_rows)
    if chosen.needs_groups and names is None:
        raise ValueError(
            f"groups: expected the source of every candidate with selector {selector!r}, got None; pass groups=[...]"
        )
    settings = {
        "selector": selector,
        "options": _plain(options or {}),
        "reduce": reduce,
        "fraction": _plain(fraction),
        "count": request.count,
        "budget": budget,
        "deduplicate": threshold,
        "seed": seed if selector in _SEEDED else None,
    }
    depth = request.samples(n_rows) if threshold is None else None
    tokens = None if lengths is None else checked_tokens("lengths", lengths, n_rows)
    return Wish(chosen, request, depth, threshold, seed, tokens, names, settings)


def conclude(
    wish: Wish,
    pool: Pool,
    sample: ScoreSample,
    columns: Columns,
    weights: np.ndarray,
    *,
    reduce: str,
    ids: Sequence[SampleId | None],
    checkpoints: Sequence[str],
    settings: Mapping[str, Any],
    origin: Mapping[str, Any],
    target_ids: Sequence[SampleId],
    rows: PoolRows | None = None,
    watched: Observer | None = None,
    problem: Problem | None = None,
    pool_digest: str | None = None,
    projected: bool = True,
    scanned: Pool | None = None,
) -> Selection:
    """Chooses, counts and measures.

    `origin` is what the record says of where the scores come from; `pool_digest` that of all ids, if `ids` lacks some;
    `projected` whether scores carry the noise of a projection; `scanned` what is measured, where `pool` has scores of
    two kinds.
    """
    n_rows = len(pool.reason)
    measured = pool if scanned is None else scanned
    excluded = pool.excluded()
    eligible = pool.reason == 0
    if not eligible.any():
        shown = ", ".join(f"{excluded[reason]} {reason}" for _, reason in EXCLUDED_BECAUSE)
        raise DataError(
            f"candidates: expected at least one row to select from, got {n_rows} of which none is eligible ({shown}); "
            "check the labels and the loss of the samples"
        )
    lengths = pool.tokens if wish.lengths is None else wish.lengths
    budget = wish.budget.over(lengths)
    scored = Scored(pool, columns, reduce, ids, lengths, wish.groups, wish.seed, rows, watched)
    collapse = None if wish.deduplicate is None or rows is None else Collapse(rows, wish.deduplicate)
    choice, passed_over = fill(wish.selector.plan(scored), budget, collapse)
    pairs = _pairs(wish, rows, scored.eligible)
    taken = len(choice.positions)
    if not taken:
        raise DataError(
            f"selector: expected at least one of the {int(eligible.sum())} eligible rows to be taken, got none; their "
            f"highest influence is {float(np.nanmax(pool.influence)):.6g}"
        )
    counts = {
        "pool": n_rows,
        "requested": taken if budget.amount is None or budget.costs is not None else budget.amount,
        "selected": taken,
        "eligible": int(eligible.sum()),
        **{f"excluded_{reason}": n for reason, n in excluded.items()},
    }
    if collapse is not None:
        counts["near_duplicates"] = passed_over
    if budget.costs is not None:
        spent = int(budget.costs[choice.positions].sum())
        counts |= {"requested_tokens": spent if budget.amount is None else budget.amount, "selected_tokens": spent}
    diagnostics = diagnose(
        measured,
        sample,
        columns,
        weights,
        reduce=reduce,
        selected=taken,
        checkpoints=checkpoints,
        projected=projected,
    )
    if pairs is not None:
        diagnostics["pairs"] = pairs
        if pairs["share"] > _MANY_NEAR:
            diagnostics["warnings"].append(
                f"{pairs['share']:.1%} of random pairs of the pool have the cosine of near-duplicates, "
                f"{pairs['near']:.3g}, or more: rows that are none are treated as such; 99.9% of pairs are below "
                f"{pairs['quantiles']['0.999']:.3f}"
            )
    return Selection(
        ids=[i for i in map(ids.__getitem__, choice.positions.tolist()) if i is not None],
        positions=choice.positions,
        scores=choice.scores,
        best_subtask=[columns.subtask[j] for j in choice.columns],
        best_target=[columns.names[j] for j in choice.columns],
        subtasks=list(columns.sizes),
        counts=counts,
        record={
            "format": FORMAT,
            "version": VERSION,
            "settings": {**wish.settings, **settings, "targets_per_subtask": columns.sizes},
            **origin,
            "ids_digest": {"candidates": pool_digest or ids_digest(ids), "targets": ids_digest(target_ids)},
            "versions": {
                "gradsift": gradsift.__version__,
                "numpy": np.__version__,
                "python": sys.version.split()[0],
            },
            "pool": pool_measures(measured.influence[eligible], pool.tokens[eligible]),
            "diagnostics": diagnostics,
            "distributions": distributions(measured, sample, columns, weights, choice.positions, ids),
        },
        influence=pool.influence,
        subtask_scores=pool.scores,
        columns=columns.names,
        problem=problem,
    )


def _pairs(wish: Wish, rows: PoolRows | None, eligible: np.ndarray) -> dict[str, Any] | None:
    """Cosines of pairs of rows drawn at random, beside the one from which on the wish takes them for near-duplicates.

    Update directions of unrelated samples share the optimizer's momentum, and may be as near as copies elsewhere.
    """
    near = wish.selector.near if wish.deduplicate is None else wish.deduplicate
    if rows is None or near is None or len(eligible) < 2:
        return None
    some = np.sort(np.random.default_rng(0).choice(eligible, min(_PAIRED_ROWS, len(eligible)), replace=False))
    drawn = rows.take(some)
    cosines = drawn.cosines(drawn)[np.triu_indices(len(some), 1)]
    return {
        "near": near,
        "share": float((cosines >= near).mean()),
        "quantiles": {str(q): float(v) for q, v in zip(_QUANTILES, np.quantile(cosines, _QUANTILES), strict=True)},
    }


def checked_tokens(name: str, tokens: Sequence[int] | np.ndarray, n_rows: int, *, least: int = 1) -> np.ndarray:
    """The argument `name`, tokens of every candidate, as (N,) int64."""
    try:
        found = np.asarray(tokens)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected integers, got {type(tokens).__name__}: {error}") from error
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got {found.dtype}")
    if found.shape != (n_rows,):
        raise ValueError(f"{name}: expected shape ({n_rows},), one a candidate, got {found.shape}")
    short = np.flatnonzero(found < least)
    if len(short):
        row = short[0]
        raise ValueError(f"{name}: expected at least {least} token a candidate, got {found[row]} in row {row}")
    return found.astype(np.int64)


def _plain(value: Any) -> Any:
    """`value` with Python's numbers in place of NumPy's, which JSON cannot say."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _checked_groups(groups: Sequence[str] | None, n_rows: int) -> Sequence[str] | None:
    if groups is None:
        return None
    if isinstance(groups, (str, bytes)) or not hasattr(groups, "__len__"):
        raise TypeError(f"groups: expected a sequence of str, one a candidate, got {type(groups).__name__}")
    if len(groups) != n_rows:
        raise ValueError(f"groups: expected {n_rows} names, one a candidate, got {len(groups)}")
    for row, name in enumerate(groups):
        if not isinstance(name, str):
            raise TypeError(f"groups: expected a str for every candidate, got {type(name).__name__} in row {row}")
    return groups
