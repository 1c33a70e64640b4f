"""`select`: from gradient datastores to the samples to train on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradsift
from gradsift.errors import DataError
from gradsift.selection.diagnostics import diagnose
from gradsift.selection.distributions import distributions
from gradsift.selection.measures import pool_measures
from gradsift.selection.output import Selection
from gradsift.selection.problem import pose
from gradsift.selection.scan import EXCLUDED_BECAUSE, ScoreSample, scan
from gradsift.selection.selectors import make_selector, selection_size
from gradsift.selection.sources import SampleId, describe, ids_digest


def select(
    candidates: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float] | None = None,
    *,
    fraction: float | None = None,
    count: int | None = None,
    selector: str = "top",
    reduce: str = "less",
    subtasks: Sequence[str] | None = None,
    ids: Sequence[SampleId] | None = None,
    seed: int = 0,
    keep_scores: bool = False,
    allow_partial: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Selection:
    """Select the candidates with the highest influence on the targets.

    ``influence(z) = max_j mean_{z' in V_j} Σ_c η̄_c cos(target_c(z'), candidate_c(z))`` over subtasks V_j and
    checkpoints c: LESS (Xia et al., ICML 2024), for any number and size of subtasks. docs/scoring.md has the formula of
    every `reduce`.

    Parameters
    ----------
    candidates : list, one an optimizer checkpoint, of `Datastore`, `Sketches` or array (N, P) of floats
        Of the same samples in the same order.
    targets : list, as long, of the same kinds, (M, P) each
        An item may be a list of such, whose rows then follow one another: one store a target set.
    weights : sequence of float, one a checkpoint, optional
        Normalised to sum to 1. None takes the mean learning rates that the candidate stores name; where none does, all
        checkpoints weigh the same. ``record["settings"]["weights_from"]`` says which it was.
    fraction : float, 0 < fraction <= 1
        Of the whole pool, excluded rows counted; rounded down as LESS does, but at least one row.
    count : int, 1 … N
        Exactly one of `fraction` and `count`. Where fewer rows are eligible all of those are selected:
        ``counts["requested"]`` and ``counts["selected"]`` then differ.
    selector : {"top", "round_robin", "random"}
        Highest influence; subtasks taking turns; or, the baseline, a uniform choice by `seed`.
    reduce : {"less", "mean", "max", "cosine_to_mean"}
    subtasks : sequence of str, one a target row, optional
        None makes one subtask, ``"target"``, of all.
    ids : sequence of str or int, one a candidate, optional
        Of arrays; stores have their own. None numbers the rows.
    seed : int
        Of "random".
    keep_scores : bool
        Keep the score of every row for every column: ``4·N·S`` bytes.
    allow_partial : bool
        Select among the rows that are there where a store lacks some; those are counted as ``excluded_missing``.
    progress : callable, called with (rows done, rows in all) as the scan goes

    Returns
    -------
    Selection

    Raises
    ------
    TypeError, ValueError
        For arguments that break the above; for a target row that is not finite, has no label tokens or is zero.
    SpecMismatchError
        Stores of different samples, projections, parameters or checkpoints.
    DatastoreIncompleteError
        A store lacks rows and `allow_partial` is false.
    DataError
        No candidate is eligible.

    Notes
    -----
    Candidates without label tokens, with NaN or infinity, or with a row of zeros, at any checkpoint, are never
    selected. Ties go to the smaller row number. Rows are read once, in windows: memory is 17 bytes a row and the ids,
    some 100 bytes a row more while it chooses and measures after the scan, one window of at most 32 MiB a checkpoint,
    the M·P targets, and what `selector` and `keep_scores` add; never N·M.
    """
    problem = pose(candidates, targets, weights, reduce=reduce, subtasks=subtasks, ids=ids, allow_partial=allow_partial)
    pool_ids, columns, eta = problem.ids, problem.columns, problem.weights
    n_rows = len(pool_ids)
    wanted = selection_size(fraction, count, n_rows)
    chooser = make_selector(selector, count=wanted, n_columns=len(columns.names), reduce=reduce, seed=seed)
    sample = ScoreSample(n_rows, len(problem.candidates), len(columns.names))

    pool = scan(
        problem.candidates,
        n_rows,
        columns,
        eta,
        reduce=reduce,
        observer=chooser,
        sample=sample,
        keep_scores=keep_scores,
        progress=progress,
    )
    excluded = {f"excluded_{reason}": n for reason, n in pool.excluded().items()}
    eligible = pool.reason == 0
    if not eligible.any():
        shown = ", ".join(f"{pool.excluded()[reason]} {reason}" for _, reason in EXCLUDED_BECAUSE)
        raise DataError(
            f"candidates: expected at least one row to select from, got {n_rows} of which none is eligible ({shown}); "
            "check the labels and the loss of the samples"
        )
    choice = chooser.choose(pool, pool_ids)
    return Selection(
        ids=[i for i in map(pool_ids.__getitem__, choice.positions.tolist()) if i is not None],
        positions=choice.positions,
        scores=choice.scores,
        best_subtask=[columns.subtask[j] for j in choice.columns],
        best_target=[columns.names[j] for j in choice.columns],
        subtasks=list(columns.sizes),
        counts={
            "pool": n_rows,
            "requested": wanted,
            "selected": len(choice.positions),
            "eligible": int(eligible.sum()),
            **excluded,
        },
        record={
            "format": "gradsift.selection",
            "version": 1,
            "settings": {
                "selector": selector,
                "reduce": reduce,
                "fraction": fraction,
                "count": count,
                "weights": eta.tolist(),
                "weights_from": problem.weights_from,
                "seed": seed if selector == "random" else None,
                "allow_partial": allow_partial,
                "targets_per_subtask": columns.sizes,
            },
            "candidates": [describe(source) for source in problem.candidates],
            "targets": [describe(source) for source in problem.targets],
            "ids_digest": {"candidates": ids_digest(pool_ids), "targets": ids_digest(problem.target_ids)},
            "versions": {
                "gradsift": gradsift.__version__,
                "numpy": np.__version__,
                "python": sys.version.split()[0],
            },
            "pool": pool_measures(pool.influence[eligible], pool.tokens[eligible]),
            "diagnostics": diagnose(
                pool,
                sample,
                columns,
                eta,
                reduce=reduce,
                selected=len(choice.positions),
                checkpoints=problem.checkpoints,
            ),
            "distributions": distributions(pool, sample, columns, eta, choice.positions, pool_ids),
        },
        influence=pool.influence,
        subtask_scores=pool.scores,
        columns=columns.names,
        problem=problem,
    )
