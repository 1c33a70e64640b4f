"""`select`: from gradient datastores to the samples to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradsift.selection.choosing import conclude, make_wish
from gradsift.selection.output import Selection
from gradsift.selection.problem import pose
from gradsift.selection.rescoring import open_finer, score_again
from gradsift.selection.rows import PoolRows
from gradsift.selection.scan import ScoreSample, scan
from gradsift.selection.screening import screen_for, settle
from gradsift.selection.sources import SampleId, describe


def select(
    candidates: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float] | None = None,
    *,
    fraction: float | None = None,
    count: int | None = None,
    budget: str = "samples",
    selector: str = "top",
    options: Mapping[str, Any] | None = None,
    deduplicate: float | None = None,
    reduce: str = "less",
    target_dtype: str = "auto",
    subtasks: Sequence[str] | None = None,
    ids: Sequence[SampleId] | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    keep_scores: bool = False,
    allow_partial: bool = False,
    rescore: Sequence[Any] | None = None,
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
    count : int
        Exactly one of `fraction` and `count`, or neither with "threshold" and "band". Where fewer rows are eligible
        all of those are selected: ``counts["requested"]`` and ``counts["selected"]`` then differ.
    budget : {"samples", "tokens"}
        What `fraction` and `count` count. With "tokens", rows are taken in the selector's order up to the first that
        does not fit; that one ends the selection, and the very first row is taken whatever it has.
    selector : {"top", "round_robin", "threshold", "band", "quota", "vote", "knn_kde", "random", "length", "rds"}
    options : mapping, optional
        Of the selector; docs/selectors.md lists them.
    deduplicate : float, 0 < deduplicate <= 1, optional
        Rows of at least this cosine (``Σ_c η̄_c cos``) to one taken before them are passed over. Works with every
        selector.
    reduce : {"less", "mean", "max", "cosine_to_mean"}
    target_dtype : {"auto", "float32", "bfloat16"}
        What columns are rounded to before the scan. "bfloat16" moves a score by some 1e-4 at most, about what storing
        the rows in bfloat16 did, and takes half the time on such rows where columns are many (docs/scoring.md).
        "auto" selects what "float32" does, with the same scores, and scans against rounded columns first where that
        is faster: rows that cannot be selected then keep the rounded ones in `Selection.influence`.
    subtasks : sequence of str, one a target row, optional
        None makes one subtask, ``"target"``, of all.
    ids : sequence of str or int, one a candidate, optional
        Of arrays; stores have their own. None numbers the rows.
    lengths : sequence of int, one a candidate, optional
        Tokens, for budgets and selectors that count them. None takes the label tokens that the stores know.
    groups : sequence of str, one a candidate, optional
        Sources, for quotas.
    seed : int
        Of "random" and "knn_kde".
    keep_scores : bool
        Keep the score of every row for every column: ``4·N·S`` bytes.
    allow_partial : bool
        Select among the rows that are there where a store lacks some; those are counted as ``excluded_missing``.
    rescore : list, one a checkpoint, of stores of the same rows in a finer dtype, optional
        The best ``5 · k`` of k rows to be selected, by `candidates`, are scored again from these, and the k are chosen
        among them. So one-bit candidates are scanned and the choice is made in full. With selector "top" and a budget
        in samples. Reads the 5·k rows; diagnostics stay those of `candidates`.
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
    selected. Ties go to the smaller row number. Rows are read once (those that "auto" scores again, twice), in windows:
    memory is 17 bytes a row and the ids, some 100 bytes a row more while it chooses and measures after the scan, one
    window of at most 32 MiB a checkpoint unless rows are mapped, the columns, and what `selector`, `deduplicate` and
    `keep_scores` add (docs/selectors.md); never N·M.
    """
    problem = pose(
        candidates,
        targets,
        weights,
        reduce=reduce,
        subtasks=subtasks,
        ids=ids,
        allow_partial=allow_partial,
        target_dtype=target_dtype,
    )
    n_rows, columns = len(problem.ids), problem.columns
    wish = make_wish(
        n_rows,
        selector=selector,
        options=options,
        reduce=reduce,
        fraction=fraction,
        count=count,
        budget=budget,
        deduplicate=deduplicate,
        seed=seed,
        lengths=lengths,
        groups=groups,
    )
    finer = None if rescore is None else open_finer(rescore, problem, wish)
    screened = target_dtype == "auto" and finer is None and not keep_scores
    screen = screen_for(problem, wish) if screened else None
    scanned_columns = columns if screen is None else screen.columns
    sample = ScoreSample(n_rows, len(problem.candidates), len(columns.names))
    watched = wish.selector.observer(columns, wish.depth)
    pool = scan(
        problem.candidates,
        n_rows,
        scanned_columns,
        problem.weights,
        reduce=reduce,
        observer=watched,
        sample=sample,
        keep_scores=keep_scores or wish.needs_scores(columns),
        progress=progress,
    )
    again: dict[str, Any] = {}
    scanned = None
    if screen is not None:
        pool = settle(pool, screen, problem, wish)
        again = {"screened_with": "bfloat16", "screening_margin": screen.margin}
    if finer is not None:
        scanned, pool = pool, score_again(pool, finer, problem, wish)
    if pool.rescored is not None:
        again["rescored"] = int(pool.rescored.sum())
    return conclude(
        wish,
        pool,
        sample,
        columns,
        problem.weights,
        reduce=reduce,
        ids=problem.ids,
        checkpoints=problem.checkpoints,
        settings={
            "weights": problem.weights.tolist(),
            "weights_from": problem.weights_from,
            "allow_partial": allow_partial,
            "target_dtype": target_dtype,
            **again,
        },
        origin={
            "candidates": [describe(source) for source in problem.candidates],
            "targets": [describe(source) for source in problem.targets],
            **({} if finer is None else {"rescore": [describe(source) for source in finer]}),
        },
        target_ids=problem.target_ids,
        rows=PoolRows(problem.candidates, problem.weights) if wish.needs_rows else None,
        watched=watched,
        problem=problem,
        projected=selector != "rds",
        scanned=scanned,
    )
