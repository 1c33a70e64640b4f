"""One pass over the rows of all checkpoints, as they are stored: scores, checkpoint weights, reduction over columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.selection.influence import Columns
from gradsift.selection.sources import RowSource
from gradsift.selection.stored import Stretch, stored_format, stretches

# Bit of this module's own, beside the datastore's: no checkpoint may lack a row that is selected.
_MISSING = 1 << 15
# In order of precedence: a sample without labels has a row of zeros too.
EXCLUDED_BECAUSE = (
    (_MISSING, "missing"),
    (FLAG_NO_LABELS, "no_labels"),
    (FLAG_NONFINITE, "nonfinite"),
    (FLAG_ZERO, "zero"),
)
_EXCLUDING = np.uint32(sum(bit for bit, _ in EXCLUDED_BECAUSE))

# What a block that is read at once takes at most, as stored; it may be no block of the store's.
_WINDOW_BYTES = 32 << 20
_LEAST_ROWS = 256
_COPIED_BYTES = 8 << 20

# The standard deviation of 4096 scores is known to 1.1%.
_SAMPLE_ROWS = 4096


@dataclass
class Pool:
    """What a scan keeps of N candidates and S columns.

    Attributes
    ----------
    influence : (N,) float32, NaN where the row is excluded
    best : (N,) int32, the column with the highest score, the first of equals
    reason : (N,) uint8, 0 where the row may be selected, else 1 + its place in EXCLUDED_BECAUSE
    tokens : (N,) int64, label tokens, -1 where not known
    scores : (N, S) float32 or None
    rescored : (N,) bool or None
        The rows that may be selected, where only those were scored again from finer stores.
    """

    influence: np.ndarray
    best: np.ndarray
    reason: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray | None
    rescored: np.ndarray | None = None

    def excluded(self) -> dict[str, int]:
        """How many rows are excluded for each reason."""
        return {name: int((self.reason == code).sum()) for code, (_, name) in enumerate(EXCLUDED_BECAUSE, start=1)}


class ScoreSample:
    """Scores at every checkpoint of rows drawn at random, kept as a scan passes; of all rows where the pool is small.

    Attributes
    ----------
    positions : (m,) int64, ascending; m = min(N, 4096)
    scores : (C, m, S) float32, before weights; NaN where a checkpoint lacks the row, or has one that is not finite
    """

    def __init__(self, n_rows: int, n_checkpoints: int, n_columns: int) -> None:
        size = min(n_rows, _SAMPLE_ROWS)  # each is scored a second time, at every checkpoint by itself
        drawn = np.arange(n_rows) if size == n_rows else np.random.default_rng(0).choice(n_rows, size, replace=False)
        self.positions = np.sort(drawn).astype(np.int64)
        self.scores = np.full((n_checkpoints, size, n_columns), np.nan, np.float32)

    def within(self, first: int, stop: int) -> slice:
        """The places in `positions` of the rows ``first`` … ``stop − 1``."""
        lo, hi = np.searchsorted(self.positions, [first, stop])
        return slice(int(lo), int(hi))

    def see(self, checkpoint: int, first: int, scores: np.ndarray) -> None:
        places = self.within(first, first + len(scores))
        self.scores[checkpoint, places] = scores[self.positions[places] - first]


class Observer(Protocol):
    """Sees every stretch of scores as the scan passes."""

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None: ...


def scan(
    sources: Sequence[RowSource],
    n_rows: int,
    columns: Columns,
    weights: np.ndarray,
    *,
    reduce: str,
    observer: Observer | None = None,
    sample: ScoreSample | None = None,
    keep_scores: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Pool:
    """Scores all rows of all checkpoints in one pass.

    Rows are read as they are stored, quantised ones too, in blocks of 32 MiB a checkpoint at most (or 256 rows), and
    cut where any checkpoint's block ends, so that none is copied. Keeps 17 bytes a row and, if `keep_scores`, 4·S more.
    """
    n_columns = len(columns.names)
    scorer = _Scorer(sources, columns, weights, reduce)
    pool = Pool(
        influence=np.full(n_rows, np.nan, np.float32),
        best=np.zeros(n_rows, np.int32),
        reason=np.zeros(n_rows, np.uint8),
        tokens=np.full(n_rows, -1, np.int64),
        scores=np.full((n_rows, n_columns), np.nan, np.float32) if keep_scores else None,
    )
    room = np.empty((0, n_columns), np.float32)
    for stretch in stretches(sources, n_rows, scorer.block_rows):
        first, stop = stretch.first, stretch.stop
        flags = np.full(stop - first, _MISSING, np.uint32) if stretch.missing else stretch.flags()
        if stretch.parts[0] is not None:
            pool.tokens[first:stop] = stretch.parts[0].tokens
        scores = None if pool.scores is None else pool.scores[first:stop]
        if observer is not None and scores is None:
            if len(room) < stop - first:
                room = np.empty((stop - first, n_columns), np.float32)
            scores = room[: stop - first]
        if stretch.missing:
            if scores is not None:
                scores[:] = np.nan
        else:
            status = np.empty(stop - first, np.uint8)
            out = BlockScores(pool.influence[first:stop], pool.best[first:stop], status, scores)
            scorer.score(stretch, out, excluded=(flags & _EXCLUDING) != 0)
            flags |= status
            if sample is not None:
                scorer.score_sample(stretch, sample)
        reason = pool.reason[first:stop]
        reason[:] = first_reason(flags)
        if observer is not None and scores is not None:
            observer.see(first, scores, reason == 0)
        if progress is not None:
            progress(stop, n_rows)
    return pool


def score_positions(
    sources: Sequence[RowSource],
    n_rows: int,
    positions: np.ndarray,
    columns: Columns,
    weights: np.ndarray,
    *,
    reduce: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(m,) float32 influence and (m,) int32 best column of the rows at `positions`, to the bit as `scan` has them.

    `positions` (m,), ascending, are rows that every checkpoint has. They are read in order and copied, 8 MiB of each
    checkpoint at a time.
    """
    scorer = _Scorer(sources, columns, weights, reduce)
    influence, best = np.empty(len(positions), np.float32), np.empty(len(positions), np.int32)
    for stretch in stretches(sources, n_rows, scorer.block_rows):
        lo, hi = (int(place) for place in np.searchsorted(positions, [stretch.first, stretch.stop]))
        scorer.score_chosen(stretch, positions[lo:hi] - stretch.first, BlockScores(influence[lo:hi], best[lo:hi]))
    return influence, best


def first_reason(flags: np.ndarray) -> np.ndarray:
    """(n,) uint8: 1 + the place in EXCLUDED_BECAUSE of the first bit there is in `flags` (n,), 0 for none."""
    reason = np.zeros(len(flags), np.uint8)
    for code, (bit, _) in reversed(list(enumerate(EXCLUDED_BECAUSE, start=1))):
        reason[(flags & bit) != 0] = code
    return reason


class _Scorer:
    """The op, at all checkpoints together and, for samples, at each alone."""

    def __init__(self, sources: Sequence[RowSource], columns: Columns, weights: np.ndarray, reduce: str) -> None:
        formats = [stored_format(source) for source in sources]
        largest = max(form.row_bytes(source.proj_dim) for form, source in zip(formats, sources, strict=True))
        self.block_rows = max(_LEAST_ROWS, _WINDOW_BYTES // largest // _LEAST_ROWS * _LEAST_ROWS)
        self._copied_rows = max(1, _COPIED_BYTES // largest)
        self._rooms: dict[int, np.ndarray] = {}
        dtypes, seeds = [form.dtype for form in formats], [form.seed for form in formats]
        over_columns = "mean" if reduce == "mean" else "max"
        self._op = RowScorer(columns.at, weights.tolist(), dtypes, seeds=seeds, reduce=over_columns)

    def score(self, stretch: Stretch, out: BlockScores, excluded: np.ndarray) -> None:
        rows, scales = stretch.stored()
        self._op.score(rows, out, scales=scales, excluded=excluded.view(np.uint8))

    def score_chosen(self, stretch: Stretch, chosen: np.ndarray, out: BlockScores) -> None:
        """Influence and best column of the rows `chosen` (m,) from the stretch."""
        assert out.influence is not None
        assert out.best is not None
        for part in self._parts(chosen):
            copies = [
                self._copied(c, *stored, chosen[part]) for c, stored in enumerate(zip(*stretch.stored(), strict=True))
            ]
            rows, scales = zip(*copies, strict=True)
            self._op.score(rows, BlockScores(out.influence[part], out.best[part]), scales=scales)

    def score_sample(self, stretch: Stretch, sample: ScoreSample) -> None:
        places = sample.within(stretch.first, stretch.stop)
        chosen = sample.positions[places] - stretch.first
        for part in self._parts(chosen):
            for c, stored in enumerate(zip(*stretch.stored(), strict=True)):
                rows, scales = self._copied(c, *stored, chosen[part])
                self._op.score_checkpoint(c, rows, sample.scores[c, places][part], scales=scales)

    def _parts(self, chosen: np.ndarray) -> Iterator[slice]:
        for first in range(0, len(chosen), self._copied_rows):
            yield slice(first, min(first + self._copied_rows, len(chosen)))

    def _copied(
        self, c: int, rows: np.ndarray, scales: np.ndarray | None, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A part of chosen rows of checkpoint c and their scales, until the next call.

        In memory that is written again and again: to get fresh pages takes longer than to copy rows.
        """
        if c not in self._rooms:
            self._rooms[c] = np.empty((self._copied_rows, rows.shape[1]), rows.dtype)
        # "raise" would copy once more
        copies = np.take(rows, chosen, axis=0, out=self._rooms[c][: len(chosen)], mode="clip")
        return copies, None if scales is None else scales[chosen]
