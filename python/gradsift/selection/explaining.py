"""Why a candidate scores as it does: by subtask and checkpoint, beside which targets, beside which other candidates."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.errors import DataError, DatastoreIncompleteError
from gradsift.files import atomic_text
from gradsift.ops import score_rows
from gradsift.selection.influence import Columns, target_columns
from gradsift.selection.neighbours import nearest_rows
from gradsift.selection.problem import Problem, pose
from gradsift.selection.scan import EXCLUDED_BECAUSE, scan
from gradsift.selection.sources import RowSource, SampleId

_BATCH_BYTES = 8 << 20
# Where at most one row in so many is wanted it is fetched by its number; else blocks are read one after the other.
_FEW = 32
_COMPARED_IDS = 20_000


@dataclass(frozen=True)
class Near:
    """A target example or a candidate that is near: the weighted sum over checkpoints of cosines to it."""

    id: SampleId
    subtask: str | None
    similarity: float


@dataclass(frozen=True, eq=False)
class Explanation:
    """One candidate's influence, taken apart.

    Attributes
    ----------
    id, position : of the candidate, in the pool
    influence : float, NaN where the row is excluded
    excluded : None, or why the row could not be scored: "missing", "no_labels", "nonfinite", "zero"
    rank, ranked : its place by influence among the `ranked` rows that could be scored; None where that was not asked
    subtasks : (S,) names
    by_subtask : (S,) float, ``Σ_c η_c scores[c, j]``; the influence is their maximum or mean, as `reduce` says
    checkpoints, weights : (C,) names, η
    scores : (C, S) float, at each checkpoint for each subtask (with reduce="max", for its best target example)
    closest_targets : target examples, nearest first
    neighbours : other candidates, nearest first
    """

    id: SampleId
    position: int
    influence: float
    excluded: str | None
    rank: int | None
    ranked: int | None
    subtasks: list[str]
    by_subtask: np.ndarray
    checkpoints: list[str]
    weights: np.ndarray
    scores: np.ndarray
    closest_targets: list[Near]
    neighbours: list[Near]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what is not finite is None."""
        return {
            "id": self.id,
            "position": self.position,
            "influence": _plain(self.influence),
            "excluded": self.excluded,
            "rank": self.rank,
            "ranked": self.ranked,
            "subtasks": {name: _plain(value) for name, value in zip(self.subtasks, self.by_subtask, strict=True)},
            "checkpoints": [
                {
                    "name": name,
                    "weight": float(weight),
                    "subtasks": {s: _plain(value) for s, value in zip(self.subtasks, row, strict=True)},
                }
                for name, weight, row in zip(self.checkpoints, self.weights, self.scores, strict=True)
            ],
            "closest_targets": [
                {"id": n.id, "subtask": n.subtask, "similarity": _plain(n.similarity)} for n in self.closest_targets
            ],
            "neighbours": [{"id": n.id, "similarity": _plain(n.similarity)} for n in self.neighbours],
        }


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def explain(
    sample: SampleId,
    candidates: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float] | None = None,
    *,
    reduce: str = "less",
    target_dtype: str = "auto",
    subtasks: Sequence[str] | None = None,
    ids: Sequence[SampleId] | None = None,
    closest: int = 5,
    neighbours: int = 5,
    allow_partial: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Explanation:
    """Explain the influence of one candidate.

    Parameters
    ----------
    sample : str or int
        Its id.
    candidates, targets, weights, reduce, target_dtype, subtasks, ids, allow_partial, progress
        As `gradsift.select` takes them.
    closest : int, >= 0
        How many target examples to name, by ``Σ_c η_c cos(target_c, candidate_c)``.
    neighbours : int, >= 0
        How many other candidates to name, by ``Σ_c η_c cos(candidate_c, other_c)``.

    Returns
    -------
    Explanation

    Raises
    ------
    DataError
        No candidate has this id; ids like it are suggested.
    TypeError, ValueError, SpecMismatchError, DatastoreIncompleteError
        As `gradsift.select`.

    Notes
    -----
    Reads every row once, for the rank and the neighbours, and this candidate's once more before; memory is that of
    `gradsift.select`.
    """
    for name, value in (("closest", closest), ("neighbours", neighbours)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name}: expected an int, got {type(value).__name__}")
        if value < 0:
            raise ValueError(f"{name}: expected at least 0, got {value}")
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
    position = position_of(sample, problem.ids)
    rows = next(_rows_at(problem, np.array([position])))
    usable = bool(np.isfinite(rows).all() and rows.any(axis=2).all())
    watch = _Watch(len(problem.columns.names), len(problem.ids), reduce, position, neighbours if usable else 0)
    pool = scan(
        problem.candidates,
        len(problem.ids),
        _with_own(problem.columns, rows[:, 0]) if usable else problem.columns,
        problem.weights,
        reduce=reduce,
        observer=watch,
        progress=progress,
    )
    reason, scorer = int(pool.reason[position]), _Scorer(problem)
    return Explanation(
        id=sample,
        position=position,
        influence=float(watch.influence[position]),
        excluded=EXCLUDED_BECAUSE[reason - 1][1] if reason else None,
        rank=None if reason else watch.rank(),
        ranked=int((pool.reason == 0).sum()),
        neighbours=[Near(_id(problem, i), None, s) for i, s in watch.neighbours()],
        **scorer.fields(*(array[0] for array in scorer.score(rows, closest))),
    )


def position_of(sample: SampleId, ids: Sequence[SampleId | None]) -> int:
    """The row of `sample`; a DataError that suggests ids like it, where there is none."""
    try:
        return ids.index(sample)
    except ValueError:
        pass
    text = str(sample)
    known = [str(i) for i in ids if i is not None]
    like = [i for i in known if i.casefold() == text.casefold()]
    like += [i for i in known if text and (i.startswith(text) or text.startswith(i)) and i not in like][:5]
    if len(like) < 3:  # comparing letter by letter takes 10 µs an id
        near = [i for i in known if abs(len(i) - len(text)) <= 2][:_COMPARED_IDS]
        like += [i for i in difflib.get_close_matches(text, near, n=5, cutoff=0.6) if i not in like]
    kind = next((type(i) for i in ids if i is not None), type(sample))
    shown = [i if kind is int else repr(i) for i in like[:5] or known[:3]]
    hint = f"; {'there are' if like else 'ids look like'} {', '.join(shown)}"
    if not isinstance(sample, kind):
        hint += f" (ids here are {kind.__name__}, not {type(sample).__name__})"
    raise DataError(f"id: expected one of the {len(known)} candidates, got {sample!r}{hint}")


def why(
    problem: Problem,
    positions: Sequence[int],
    *,
    closest: int = 3,
    neighbours: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[Explanation]:
    """Explanations of the rows at `positions`, which must be eligible, in their order, without rank.

    Every checkpoint's rows are read once, in order of the rows, some 8 MiB at a time, before the first is given out;
    what is kept of each row until then takes ``4·C·S + 8·closest`` bytes. `neighbours` are looked for in the whole
    pool, of which `progress` hears: see `nearest_rows`.
    """
    asked = np.asarray(positions, np.int64)
    order = np.argsort(asked, kind="stable")
    scorer = _Scorer(problem)
    parts = [scorer.score(rows, closest) for rows in _rows_at(problem, asked[order])]
    if not parts:
        return
    scores, nearest, similarity = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    beside = nearest_rows(problem, asked, neighbours, progress) if neighbours else [[] for _ in positions]
    for at, row, near in zip(asked.tolist(), np.argsort(order, kind="stable").tolist(), beside, strict=True):
        fields = scorer.fields(scores[row], nearest[row], similarity[row])
        yield Explanation(
            id=_id(problem, at),
            position=at,
            influence=float(_reduced(fields["by_subtask"][None], problem.reduce)[0]),
            excluded=None,
            rank=None,
            ranked=None,
            neighbours=[Near(_id(problem, i), None, value) for i, value in near],
            **fields,
        )


def write_why(path: str | os.PathLike[str], explanations: Iterable[Explanation]) -> None:
    """One JSON line an explanation, best first, with its ``rank``; whole or not at all."""
    with atomic_text(path) as file:
        for rank, explanation in enumerate(explanations, start=1):
            record = explanation.to_dict() | {"rank": rank}
            del record["excluded"], record["ranked"]
            file.write(json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n")


def _id(problem: Problem, position: int) -> SampleId:
    found = problem.ids[position]
    if found is None:
        raise DataError(f"position: expected a row that a store has, got {position}, which none has")
    return found


def _reduced(scores: np.ndarray, reduce: str) -> np.ndarray:
    result: np.ndarray = scores.mean(axis=1) if reduce == "mean" else scores.max(axis=1)
    return result


def _with_own(columns: Columns, own: np.ndarray) -> Columns:
    """One column more: the candidate's own rows (C, P)."""
    unit = own / np.linalg.norm(own.astype(np.float64), axis=1, keepdims=True)
    at = [np.concatenate([column, row[None].astype(np.float32)]) for column, row in zip(columns.at, unit, strict=True)]
    return Columns(at, [*columns.names, "itself"], [*columns.subtask, "itself"], columns.sizes)


class _Watch:
    """Sees the scores of all rows, the last column being that of the candidate itself where `neighbours` > 0."""

    def __init__(self, n_columns: int, n_rows: int, reduce: str, position: int, neighbours: int) -> None:
        self._columns, self._reduce, self._position, self._count = n_columns, reduce, position, neighbours
        self.influence = np.full(n_rows, np.nan, np.float32)
        self.nearest = np.empty(0, np.int64)
        self.similarity = np.empty(0, np.float32)

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None:
        rows = np.flatnonzero(eligible)
        self.influence[rows + first] = _reduced(scores[rows, : self._columns], self._reduce)
        if self._count:
            others = rows[rows + first != self._position]
            nearest = np.concatenate([self.nearest, others + first])
            similarity = np.concatenate([self.similarity, scores[others, self._columns]])
            best = np.lexsort((nearest, -similarity))[: self._count]
            self.nearest, self.similarity = nearest[best], similarity[best]

    def neighbours(self) -> list[tuple[int, float]]:
        return list(zip(self.nearest.tolist(), self.similarity.tolist(), strict=True))

    def rank(self) -> int:
        own = self.influence[self._position]
        return 1 + int((self.influence > own).sum() + (self.influence[: self._position] == own).sum())


class _Scorer:
    """Scores rows of all checkpoints against every column and every target example."""

    def __init__(self, problem: Problem) -> None:
        self._columns, self._weights, self._checkpoints = problem.columns, problem.weights, problem.checkpoints
        self._examples = target_columns(problem.targets, problem.target_ids, problem.subtasks, "max")
        self._names = list(problem.columns.sizes)
        self._members = [np.flatnonzero([of == name for of in problem.columns.subtask]) for name in self._names]

    def score(self, rows: np.ndarray, closest: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of rows (C, n, P): scores (n, C, S) by subtask, and the `closest` examples with their similarity (n, …)."""
        scores = np.stack([score_rows(r, c) for r, c in zip(rows, self._columns.at, strict=True)], axis=1)
        near = np.stack([score_rows(r, c) for r, c in zip(rows, self._examples.at, strict=True)], axis=1)
        total, beside = np.einsum("c,ncs->ns", self._weights, scores), np.einsum("c,ncm->nm", self._weights, near)
        # the column that stands for each subtask: its own, or with reduce="max" its best target's
        stands = np.stack([mine[total[:, mine].argmax(axis=1)] for mine in self._members], axis=1)
        nearest = np.argsort(-beside, axis=1, kind="stable")[:, :closest]
        return (
            np.take_along_axis(scores, stands[:, None, :], axis=2),
            nearest.astype(np.int32),
            np.take_along_axis(beside, nearest, axis=1).astype(np.float32),
        )

    def fields(self, scores: np.ndarray, nearest: np.ndarray, similarity: np.ndarray) -> dict[str, Any]:
        """What `Explanation` keeps of one row's (C, S) scores and its nearest examples."""
        examples = self._examples
        return {
            "subtasks": self._names,
            "by_subtask": self._weights @ scores.astype(np.float64),
            "checkpoints": self._checkpoints,
            "weights": self._weights,
            "scores": scores.astype(np.float64),
            "closest_targets": [
                Near(examples.names[j], examples.subtask[j], value)
                for j, value in zip(nearest.tolist(), similarity.tolist(), strict=True)
            ],
        }


def _rows_at(problem: Problem, positions: np.ndarray) -> Iterator[np.ndarray]:
    """The rows at ascending `positions`, in batches (C, n, P); zeros where a checkpoint lacks one."""
    batch_rows = max(1, _BATCH_BYTES // (4 * problem.candidates[0].proj_dim))
    batches = [positions[i : i + batch_rows] for i in range(0, len(positions), batch_rows)]
    readers = [_batches_of(source, batches, len(positions)) for source in problem.candidates]
    for parts in zip(*readers, strict=True):
        yield np.stack(parts)


def _batches_of(source: RowSource, batches: Sequence[np.ndarray], wanted: int) -> Iterator[np.ndarray]:
    fetch = getattr(source, "rows", None)
    if callable(fetch) and wanted * _FEW <= len(source):
        for positions in batches:
            out = np.zeros((len(positions), source.proj_dim), np.float32)
            for i, position in enumerate(positions.tolist()):
                with suppress(DatastoreIncompleteError, IndexError):  # a row that this checkpoint lacks stays zero
                    out[i] = fetch(position, position + 1)[0]
            yield out
        return
    blocks = source.blocks()
    block = next(blocks, None)
    for positions in batches:
        out = np.zeros((len(positions), source.proj_dim), np.float32)
        while block is not None and block.first <= positions[-1]:
            stop = block.first + len(block.rows)
            lo, hi = np.searchsorted(positions, [block.first, stop])
            out[lo:hi] = block.rows[positions[lo:hi] - block.first]
            if stop > positions[-1]:  # the next batch may begin in it
                break
            block = next(blocks, None)
        yield out
