"""Selections by scores that come of no sketches: BM25, or any utilities that were computed elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE
from gradsift.errors import DependencyMissingError
from gradsift.selection.choosing import checked_tokens, conclude, make_wish
from gradsift.selection.collected import RowScores, merge
from gradsift.selection.influence import Columns, subtask_of_rows
from gradsift.selection.output import Selection
from gradsift.selection.scan import EXCLUDED_BECAUSE, ScoreSample
from gradsift.selection.sources import SampleId, check_ids

GIVEN_REDUCTIONS = ("less", "mean", "max")
_WORD = re.compile(r"\w+")
_K1, _B = 1.5, 0.75


def select_scored(
    scores: np.ndarray,
    *,
    fraction: float | None = None,
    count: int | None = None,
    budget: str = "samples",
    selector: str = "top",
    options: Mapping[str, Any] | None = None,
    reduce: str = "less",
    subtasks: Sequence[str] | None = None,
    ids: Sequence[SampleId] | None = None,
    target_ids: Sequence[SampleId] | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    tokens: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> Selection:
    """As `select`, by scores (N, M) of every candidate for every target example, whatever they measure.

    Influence is ``max_j mean_{i in V_j} scores[z, i]`` by default; see `reduce` of `select`, of which "cosine_to_mean"
    has no meaning here, nor have near-duplicates and "knn_kde", which read rows.

    Parameters
    ----------
    scores : array (N, M) of floats
        A candidate with NaN or infinity is never selected.
    tokens : sequence of int, one a candidate, optional
        Label tokens, -1 where not known; candidates of 0 are never selected.
    ids, target_ids : names of the candidates and of the target examples; numbers by default
    """
    try:
        matrix = np.asarray(scores)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"scores: expected an array that NumPy can read, got {type(scores).__name__}") from error
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"scores: expected shape (N, M), one row a candidate, got {matrix.shape}")
    if matrix.dtype.kind != "f":
        raise TypeError(f"scores: expected a float dtype, got {matrix.dtype.name}")
    columns, members = _columns(matrix.shape[1], subtasks, target_ids, reduce)
    with np.errstate(invalid="ignore", over="ignore"):
        folded = np.stack([matrix[:, of].mean(axis=1, dtype=np.float64) for of in members], axis=1)
        folded = folded.astype(np.float32)
    return _choose(
        folded, columns, reduce=reduce, origin="given", ids=ids, lengths=lengths, groups=groups, tokens=tokens,
        fraction=fraction, count=count, budget=budget, selector=selector, options=options, seed=seed,
    )  # fmt: skip


def select_by_text(
    texts: Sequence[str],
    target_texts: Sequence[str],
    *,
    fraction: float | None = None,
    count: int | None = None,
    budget: str = "samples",
    selector: str = "top",
    options: Mapping[str, Any] | None = None,
    reduce: str = "less",
    subtasks: Sequence[str] | None = None,
    ids: Sequence[SampleId] | None = None,
    target_ids: Sequence[SampleId] | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    tokens: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
) -> Selection:
    """As `select_scored`, by BM25 of every candidate's text for every target example's: the baseline of words.

    ``bm25(d, q) = Σ_{t in q} ln(1 + (N − n_t + ½) / (n_t + ½)) · f / (f + 1.5·(0.25 + 0.75·|d| / avg|d|))``, f the
    count of word t in d, n_t the candidates that have it: the form of Lucene. A word is a run of letters and digits in
    lower case; none is left out or stemmed, so that all languages are alike that put spaces between words.

    Memory: the index, some 12 bytes a distinct word of each candidate, and 4·N bytes a column.

    Raises
    ------
    DependencyMissingError
        Without bm25s: ``pip install "gradsift[baselines]"``.
    """
    for name, given in (("texts", texts), ("target_texts", target_texts)):
        if isinstance(given, (str, bytes)) or not hasattr(given, "__len__"):
            raise TypeError(f"{name}: expected a sequence of str, got {type(given).__name__}")
        if not len(given):
            raise ValueError(f"{name}: expected at least one text, got none")
        for row, text in enumerate(given):
            if not isinstance(text, str):
                raise TypeError(f"{name}: expected str, got {type(text).__name__} in row {row}")
    columns, members = _columns(len(target_texts), subtasks, target_ids, reduce)
    folded = _bm25(texts, target_texts, members)
    return _choose(
        folded, columns, reduce=reduce, origin="bm25", ids=ids, lengths=lengths, groups=groups, tokens=tokens,
        fraction=fraction, count=count, budget=budget, selector=selector, options=options, seed=seed,
    )  # fmt: skip


def words(text: str) -> list[str]:
    """The words that BM25 counts."""
    return _WORD.findall(text.lower())


def _bm25(texts: Sequence[str], target_texts: Sequence[str], members: Sequence[np.ndarray]) -> np.ndarray:
    """(N, S) float32, mean BM25 over the target examples of each column; one example's scores in memory at a time."""
    try:
        import bm25s
    except ImportError as error:
        raise DependencyMissingError(
            'expected bm25s to be installed, got nothing; pip install "gradsift[baselines]"'
        ) from error
    found = np.zeros((len(texts), len(members)))
    documents = [words(text) for text in texts]
    if any(documents):
        index = bm25s.BM25(k1=_K1, b=_B, method="lucene", dtype="float32")
        index.index(documents, show_progress=False)
        for column, of in enumerate(members):
            for target in of.tolist():
                known = [word for word in words(target_texts[target]) if word in index.vocab_dict]
                if known:
                    found[:, column] += index.get_scores(known) / len(of)
    return found.astype(np.float32)


def _columns(
    n_targets: int, subtasks: Sequence[str] | None, target_ids: Sequence[SampleId] | None, reduce: str
) -> tuple[Columns, list[np.ndarray]]:
    """What scores are folded into, and the target examples of each column."""
    if reduce not in GIVEN_REDUCTIONS:
        raise ValueError(f"reduce: expected one of {GIVEN_REDUCTIONS} for scores that come of no rows, got {reduce!r}")
    names = check_ids(range(n_targets) if target_ids is None else target_ids) or []
    if len(names) != n_targets:
        raise ValueError(f"target_ids: expected {n_targets}, one a target example, got {len(names)}")
    of_row = subtask_of_rows(subtasks, n_targets)
    sizes = {name: of_row.count(name) for name in dict.fromkeys(of_row)}
    if reduce == "max":
        members = [np.array([j]) for j in range(n_targets)]
        return Columns([np.zeros((n_targets, 0), np.float32)], list(names), of_row, sizes), members
    members = [np.array([i for i, name in enumerate(of_row) if name == subtask]) for subtask in sizes]
    return Columns([np.zeros((len(sizes), 0), np.float32)], list(sizes), list(sizes), sizes), members


def _choose(
    folded: np.ndarray,
    columns: Columns,
    *,
    reduce: str,
    origin: str,
    ids: Sequence[SampleId] | None,
    tokens: Sequence[int] | np.ndarray | None,
    **wishes: Any,
) -> Selection:
    n_rows = len(folded)
    names = check_ids(range(n_rows) if ids is None else ids) or []
    if len(names) != n_rows:
        raise ValueError(f"ids: expected {n_rows}, one a candidate, got {len(names)}")
    labels = checked_tokens("tokens", np.full(n_rows, -1) if tokens is None else tokens, n_rows, least=-1)
    wish = make_wish(n_rows, reduce=reduce, deduplicate=None, **wishes)
    if wish.needs_rows:
        raise ValueError(
            f"selector: expected one that reads scores alone, got {wish.selector.name!r}, which reads rows"
        )
    codes = {flag: code for code, (flag, _) in enumerate(EXCLUDED_BECAUSE, start=1)}
    reason = np.where(np.isfinite(folded).all(axis=1), 0, codes[FLAG_NONFINITE])
    reason = np.where(labels == 0, codes[FLAG_NO_LABELS], reason).astype(np.uint8)
    scores = np.where((reason == 0)[:, None], folded, np.float32(np.nan))
    sample = ScoreSample(n_rows, 1, len(columns.names))
    pool = merge([RowScores(scores, reason, labels)], np.ones(1), reduce, sample=sample)
    targets = sum(columns.sizes.values())
    return conclude(
        wish,
        pool,
        sample,
        columns,
        np.ones(1),
        reduce=reduce,
        ids=names,
        checkpoints=[origin],
        settings={"weights": [1.0], "weights_from": "equal", "allow_partial": False, "scores": origin},
        origin={
            "candidates": [{"scored": origin, "rows": n_rows}],
            "targets": [{"scored": origin, "rows": targets}],
        },
        target_ids=list(columns.names),
        projected=False,
    )
