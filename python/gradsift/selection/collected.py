"""Scores made while sketches are collected, so that no datastore of rows is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, encode_rows, rotation_seed
from gradsift.errors import SpecMismatchError
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.selection.choosing import conclude, make_wish
from gradsift.selection.influence import Columns, checkpoint_weights, target_columns
from gradsift.selection.output import Selection
from gradsift.selection.scan import Pool, ScoreSample, first_reason
from gradsift.selection.selectors.queues import best_first
from gradsift.selection.sources import (
    ArraySource,
    IdsDigest,
    RowSource,
    SampleId,
    check_complete,
    check_ids,
    check_pair,
    checkpoint_names,
    describe,
    open_sources,
    row_ids,
)
from gradsift.sketches import Sketches

_MERGE_ROWS = 1 << 16


@dataclass(frozen=True)
class RowScores:
    """Scores of n rows at one checkpoint.

    Attributes
    ----------
    scores : (n, S) float32, NaN where the row is excluded
    reason : (n,) uint8, 0 where the row may be selected, else as in `Pool`
    tokens : (n,) int64, label tokens
    """

    scores: np.ndarray
    reason: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.reason)

    @classmethod
    def concatenate(cls, parts: Sequence[RowScores], n_columns: int) -> RowScores:
        """All rows of `parts`, in order."""
        return cls(
            np.concatenate([np.empty((0, n_columns), np.float32), *(part.scores for part in parts)]),
            np.concatenate([np.empty(0, np.uint8), *(part.reason for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.tokens for part in parts)]),
        )


class TargetColumns:
    """What rows of one checkpoint are scored against, from stored targets.

    Parameters
    ----------
    targets : `Datastore`, `Sketches` or array (M, P) of floats, or a list of such, whose rows follow one another
    subtasks : sequence of str, one a target row, optional
    reduce : {"less", "mean", "max", "cosine_to_mean"}
    dtype : str
        Rows are rounded and scored as those of a store of this dtype, which gives the same selection.
    """

    def __init__(
        self, targets: Any, *, subtasks: Sequence[str] | None = None, reduce: str = "less", dtype: str = "float32"
    ) -> None:
        self.sources = open_sources("targets", [targets], join=True)
        check_complete("targets", self.sources, advice="resume collecting")
        self.ids = [i for i in row_ids("targets", self.sources, allow_partial=False) if i is not None]
        self.columns = target_columns(self.sources, self.ids, subtasks, reduce)
        self.n_columns = len(self.columns.names)
        self.reduce = reduce
        self.dtype = dtype
        spec = self.source.spec
        self._seed = 0 if spec is None else rotation_seed(spec, dtype)
        self._scorer = RowScorer(self.columns.at, [1.0], [dtype], seeds=[self._seed])

    @property
    def source(self) -> RowSource:
        return self.sources[0]

    def score(self, ids: Sequence[SampleId], sketches: Sketches) -> RowScores:
        """Scores of B collected rows."""
        rows = np.asarray(sketches.rows)
        check_pair("targets", self.source, "sketches", ArraySource("sketches", rows, None))
        stored, flags = encode_rows(rows, self.dtype, ids, seed=self._seed)
        tokens = np.asarray(sketches.tokens, np.int64)
        flags |= np.uint32(FLAG_NO_LABELS) * (tokens == 0)
        scores, status = np.empty((len(rows), self.n_columns), np.float32), np.empty(len(rows), np.uint8)
        self._scorer.score([stored.numbers], BlockScores(status=status, scores=scores), scales=[stored.scales])
        reason = first_reason(flags | status)
        scores[reason != 0] = np.nan
        return RowScores(scores, reason, tokens)


class ScoringSink:
    """A `SketchSink` that scores what it is given against stored targets and lets the rows go.

    Parameters
    ----------
    targets, subtasks, reduce, dtype
        As `TargetColumns` takes them, of the checkpoint that is collected.
    keep : int, optional
        Keep the ids of the best so many rows only, and their scores alone: for one checkpoint and selector "top".
        Without it, the score of every row for every column is kept, which several checkpoints and other selectors need.

    Notes
    -----
    A row takes ``4·S + 9`` bytes and its id; with `keep`, 17 bytes and no id. One sink collects one checkpoint.
    """

    def __init__(
        self,
        targets: Any,
        *,
        subtasks: Sequence[str] | None = None,
        reduce: str = "less",
        dtype: str = "float32",
        keep: int | None = None,
    ) -> None:
        if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int)):
            raise TypeError(f"keep: expected an int or None, got {type(keep).__name__}")
        if keep is not None and keep < 1:
            raise ValueError(f"keep: expected at least 1, got {keep}")
        self.target = TargetColumns(targets, subtasks=subtasks, reduce=reduce, dtype=dtype)
        self.keep = keep
        self._parts: list[RowScores] = []
        self._best: list[Pool] = []
        self._ids: dict[int, SampleId] = {}
        self._digest = IdsDigest()
        self._rows = 0
        self._held = 0

    def __len__(self) -> int:
        """Rows that were scored."""
        return self._rows

    def append(self, ids: Sequence[str] | Sequence[int], sketches: Sketches) -> None:
        """Scores B rows."""
        names = check_ids(ids) or []
        if len(names) != len(sketches):
            raise ValueError(f"ids: expected {len(sketches)}, one a row, got {len(names)}")
        part = self.target.score(names, sketches)
        self._digest.update(names)
        self._ids |= dict(zip(range(self._rows, self._rows + len(names)), names, strict=True))
        if self.keep is None:
            self._parts.append(part)
        else:
            pool = merge([part], np.ones(1), self.target.reduce, sample=None)
            pool.scores = None
            self._best.append(pool)
            self._held += len(names)
        self._rows += len(names)
        if self.keep is not None and self._held > max(self.keep, 4096):
            self._forget()

    def ids(self) -> _Ids:
        """The id of every row that is kept, by its position; None for others."""
        if self.keep is not None:
            self._forget()
        check_ids(list(self._ids.values()))  # across batches, too
        return _Ids(self._rows, dict(self._ids), self._digest.hexdigest())

    def scores(self) -> RowScores:
        """Of every row."""
        if self.keep is not None:
            raise ValueError("keep: expected None where several checkpoints are combined, got a sink of the best alone")
        self._parts = [RowScores.concatenate(self._parts, len(self.target.columns.names))]
        return self._parts[0]

    def pool(self) -> Pool:
        """Of a sink with `keep`."""
        empty = Pool(np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.uint8), np.empty(0, np.int64), None)
        parts = [empty, *self._best]
        return Pool(
            np.concatenate([part.influence for part in parts]),
            np.concatenate([part.best for part in parts]),
            np.concatenate([part.reason for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            None,
        )

    def _forget(self) -> None:
        """Drops the ids of all rows but the best `keep`."""
        assert self.keep is not None
        pool = self.pool()
        self._best = [pool]
        rows = np.flatnonzero(pool.reason == 0)
        best = set(rows[best_first(pool.influence[rows], rows, self.keep)].tolist())
        self._ids = {position: name for position, name in self._ids.items() if position in best}
        self._held = 0


class _Ids(Sequence["SampleId | None"]):
    """Ids of some of n rows."""

    def __init__(self, n_rows: int, known: Mapping[int, SampleId], digest: str) -> None:
        self._n_rows, self._known, self.digest = n_rows, known, digest

    def __len__(self) -> int:
        return self._n_rows

    def __getitem__(self, position: Any) -> Any:
        if not 0 <= position < self._n_rows:
            raise IndexError(position)
        return self._known.get(int(position))

    def __iter__(self) -> Iterator[SampleId | None]:
        return (self._known.get(position) for position in range(self._n_rows))


def merge(parts: Sequence[RowScores], weights: np.ndarray, reduce: str, *, sample: ScoreSample | None) -> Pool:
    """The pool that a scan of all checkpoints makes: ``Σ_c η̄_c scores_c``, and the first reason that excludes a row."""
    n_rows, n_columns = parts[0].scores.shape
    pool = Pool(
        influence=np.full(n_rows, np.nan, np.float32),
        best=np.zeros(n_rows, np.int32),
        reason=np.zeros(n_rows, np.uint8),
        tokens=parts[0].tokens,
        scores=np.empty((n_rows, n_columns), np.float32),
    )
    assert pool.scores is not None
    none = np.uint8(255)
    for first in range(0, n_rows, _MERGE_ROWS):
        rows = slice(first, min(first + _MERGE_ROWS, n_rows))
        total = np.zeros((rows.stop - first, n_columns))
        reason = np.full(rows.stop - first, none)
        for c, (weight, part) in enumerate(zip(weights, parts, strict=True)):
            if sample is not None:
                sample.see(c, first, part.scores[rows])
            total += weight * part.scores[rows]
            reason = np.minimum(reason, np.where(part.reason[rows] == 0, none, part.reason[rows]))
        eligible = reason == none
        pool.reason[rows] = np.where(eligible, 0, reason)
        scores = total.astype(np.float32)
        scores[~eligible] = np.nan
        best = np.argmax(np.where(eligible[:, None], scores, 0.0), axis=1)
        pool.best[rows] = best
        pool.influence[rows] = scores.mean(axis=1) if reduce == "mean" else scores[np.arange(len(best)), best]
        pool.scores[rows] = scores
    return pool


def select_collected(
    sinks: Sequence[ScoringSink],
    weights: Sequence[float] | None = None,
    *,
    fraction: float | None = None,
    count: int | None = None,
    budget: str = "samples",
    selector: str = "top",
    options: Mapping[str, Any] | None = None,
    lengths: Sequence[int] | np.ndarray | None = None,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Selection:
    """As `select`, from sinks that scored while rows were collected, one a checkpoint, of the same rows in order.

    What needs the rows themselves cannot be had: near-duplicates, "knn_kde", `Selection.why`. Ids are those that stores
    of the sinks' dtype give, but where scores of different rows differ by less than rounding in float32.

    Raises
    ------
    TypeError, ValueError
        As `select`; a selector that needs more than the sinks kept.
    SpecMismatchError
        Sinks of other samples or targets.
    DataError
        No row is eligible.
    """
    if isinstance(sinks, ScoringSink) or not isinstance(sinks, Sequence):
        raise TypeError(f"sinks: expected a list with one ScoringSink per checkpoint, got {type(sinks).__name__}")
    if not sinks:
        raise ValueError("sinks: expected at least one, got none")
    for c, sink in enumerate(sinks):
        if not isinstance(sink, ScoringSink):
            raise TypeError(f"sinks[{c}]: expected a ScoringSink, got {type(sink).__name__}")
    ids = [sink.ids() for sink in sinks]
    keep = sinks[0].keep
    if keep is not None:
        few = isinstance(count, (int, np.integer)) and count <= keep
        if len(sinks) > 1 or selector != "top" or budget != "samples" or not few:
            raise ValueError(
                f"keep: expected None, got {keep}: a sink of the best alone gives one checkpoint's count <= {keep} by "
                'selector "top"'
            )
    for c, other in enumerate(ids[1:], start=1):
        if other.digest != ids[0].digest:
            raise SpecMismatchError(
                f"sinks[{c}]: expected the {len(ids[0])} ids of sinks[0] in the same order, got {len(other)} others; "
                "collect the same samples at every checkpoint"
            )
    return choose_collected(
        [sink.target for sink in sinks],
        None if keep is not None else [sink.scores() for sink in sinks],
        ids[0],
        weights,
        pool=sinks[0].pool() if keep is not None else None,
        fraction=fraction,
        count=count,
        budget=budget,
        selector=selector,
        options=options,
        lengths=lengths,
        groups=groups,
        seed=seed,
    )


def choose_collected(
    targets: Sequence[TargetColumns],
    parts: Sequence[RowScores] | None,
    ids: Sequence[SampleId | None],
    weights: Sequence[float] | None,
    *,
    pool: Pool | None = None,
    **wishes: Any,
) -> Selection:
    """`select_collected` of scores however they were kept; `wishes` are its keywords."""
    first = targets[0]
    for c, other in enumerate(targets[1:], start=1):
        if (other.ids, other.columns.names, other.reduce) != (first.ids, first.columns.names, first.reduce):
            raise SpecMismatchError(f"targets[{c}]: expected targets, subtasks and reduce of targets[0], got others")
    sources = [target.source for target in targets]
    eta, weights_from = checkpoint_weights(weights, sources)
    columns = Columns(
        [t.columns.at[0] for t in targets], first.columns.names, first.columns.subtask, first.columns.sizes
    )
    if len(ids) == 0:
        raise ValueError("sinks: expected at least one row, got none; check that collecting found samples")
    wish = make_wish(len(ids), reduce=first.reduce, deduplicate=None, **wishes)
    if wish.needs_rows:
        raise ValueError(
            f"selector: expected one that reads scores alone, got {wish.selector.name!r}, which reads rows; collect "
            "into a datastore"
        )
    sample = ScoreSample(0 if parts is None else len(ids), len(targets), len(columns.names))
    if parts is not None:
        pool = merge(parts, eta, first.reduce, sample=sample)
    else:
        assert pool is not None
    return conclude(
        wish,
        pool,
        sample,
        columns,
        eta,
        reduce=first.reduce,
        ids=ids,
        checkpoints=checkpoint_names(sources),
        settings={"weights": eta.tolist(), "weights_from": weights_from, "allow_partial": False},
        origin={
            "candidates": [{"scored": "while collecting", "dtype": t.dtype, "rows": len(ids)} for t in targets],
            "targets": [describe(source) for source in sources],
        },
        target_ids=first.ids,
        pool_digest=ids.digest if isinstance(ids, _Ids) else None,
    )
