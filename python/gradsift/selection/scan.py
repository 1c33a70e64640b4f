"""One pass over the rows of all checkpoints: scores, checkpoint weights, reduction over columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO
from gradsift.ops import score_rows
from gradsift.selection.influence import Columns
from gradsift.selection.sources import RowSource

# Bit of this module's own, beside the datastore's: no checkpoint may lack a row that is selected.
_MISSING = 1 << 15
# In order of precedence: a sample without labels has a row of zeros too.
EXCLUDED_BECAUSE = (
    (_MISSING, "missing"),
    (FLAG_NO_LABELS, "no_labels"),
    (FLAG_NONFINITE, "nonfinite"),
    (FLAG_ZERO, "zero"),
)

# Rows of one window at one checkpoint take at most this much; with windows of a multiple of the op's tile (256 rows)
# every row meets the same BLAS shapes whatever the blocks of the store.
_WINDOW_BYTES = 32 << 20
_WINDOW_STEP_ROWS = 256

# The standard deviation of 4096 scores is known to 1.1%.
_SAMPLE_ROWS = 4096
_SAMPLE_NUMBERS = 1 << 18


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
    """

    influence: np.ndarray
    best: np.ndarray
    reason: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray | None

    def excluded(self) -> dict[str, int]:
        """How many rows are excluded for each reason."""
        return {name: int((self.reason == code).sum()) for code, (_, name) in enumerate(EXCLUDED_BECAUSE, start=1)}


class ScoreSample:
    """Scores at every checkpoint of rows drawn at random, kept as a scan passes; of all rows where the pool is small.

    Attributes
    ----------
    positions : (m,) int64, ascending; m = min(N, max(4096, 2¹⁸ / (C·S)))
    scores : (C, m, S) float32, before weights; NaN where a checkpoint lacks the row
    """

    def __init__(self, n_rows: int, n_checkpoints: int, n_columns: int) -> None:
        size = min(n_rows, max(_SAMPLE_ROWS, _SAMPLE_NUMBERS // (n_checkpoints * n_columns)))
        drawn = np.arange(n_rows) if size == n_rows else np.random.default_rng(0).choice(n_rows, size, replace=False)
        self.positions = np.sort(drawn).astype(np.int64)
        self.scores = np.full((n_checkpoints, size, n_columns), np.nan, np.float32)

    def see(self, checkpoint: int, first: int, scores: np.ndarray) -> None:
        lo, hi = np.searchsorted(self.positions, [first, first + len(scores)])
        self.scores[checkpoint, lo:hi] = scores[self.positions[lo:hi] - first]


class Observer(Protocol):
    """Sees every window of scores as the scan passes."""

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
    """Scores all rows of all checkpoints in one pass, window by window.

    Keeps 17 bytes a row and, if `keep_scores`, 4·S more; works in C windows of 32 MiB at most (at least 256 rows).
    """
    n_columns = len(columns.names)
    window_rows = window_size(sources[0].proj_dim)
    pool = Pool(
        influence=np.full(n_rows, np.nan, np.float32),
        best=np.zeros(n_rows, np.int32),
        reason=np.zeros(n_rows, np.uint8),
        tokens=np.full(n_rows, -1, np.int64),
        scores=np.empty((n_rows, n_columns), np.float32) if keep_scores else None,
    )
    one = np.empty((min(window_rows, n_rows), n_columns), np.float32)
    readers = [windows(source, n_rows, window_rows) for source in sources]
    for first, *parts in zip(range(0, n_rows, window_rows), *readers, strict=True):
        stop = min(first + window_rows, n_rows)
        total = np.zeros((stop - first, n_columns))
        flags = np.zeros(stop - first, np.int32)
        for c, (weight, part, column) in enumerate(zip(weights, parts, columns.at, strict=True)):
            score_rows(part.rows, column, out=one[: stop - first])
            if sample is not None:
                sample.see(c, first, one[: stop - first])
            flags |= part.flags
            flags[np.isnan(one[: stop - first]).any(axis=1)] |= FLAG_NONFINITE
            still = np.flatnonzero(~one[: stop - first].any(axis=1))  # all scores 0: perhaps a row of zeros
            flags[still[~part.rows[still].any(axis=1)]] |= FLAG_ZERO
            total += weight * one[: stop - first]
        for code, (bit, _) in reversed(list(enumerate(EXCLUDED_BECAUSE, start=1))):
            pool.reason[first:stop][(flags & bit) != 0] = code
        pool.tokens[first:stop] = parts[0].tokens
        scores = total.astype(np.float32)
        eligible = pool.reason[first:stop] == 0
        scores[~eligible] = np.nan
        best = np.argmax(np.where(eligible[:, None], scores, 0.0), axis=1)
        pool.best[first:stop] = best
        pool.influence[first:stop] = scores.mean(axis=1) if reduce == "mean" else scores[np.arange(stop - first), best]
        if pool.scores is not None:
            pool.scores[first:stop] = scores
        if observer is not None:
            observer.see(first, scores, eligible)
        if progress is not None:
            progress(stop, n_rows)
    return pool


def window_size(proj_dim: int) -> int:
    """Rows of one window."""
    return max(_WINDOW_STEP_ROWS, _WINDOW_BYTES // (4 * proj_dim) // _WINDOW_STEP_ROWS * _WINDOW_STEP_ROWS)


@dataclass
class Window:
    """Rows at fixed positions; valid until the next one is asked for."""

    rows: np.ndarray
    tokens: np.ndarray
    flags: np.ndarray


def windows(source: RowSource, n_rows: int, window_rows: int) -> Iterator[Window]:
    """Cuts the blocks of a source, wherever they end, into windows; positions in no block are flagged as missing."""
    buffer: np.ndarray | None = None
    blocks = source.blocks(window_rows)
    block = next(blocks, None)
    for start in range(0, n_rows, window_rows):
        stop = min(start + window_rows, n_rows)
        if block is not None and block.first == start and len(block.rows) == stop - start:
            yield Window(block.rows, block.tokens, block.flags.astype(np.int32))
            block = next(blocks, None)
            continue
        if buffer is None:
            buffer = np.empty((window_rows, source.proj_dim), np.float32)
        window = Window(
            buffer[: stop - start], np.full(stop - start, -1, np.int64), np.full(stop - start, _MISSING, np.int32)
        )
        window.rows[:] = 0.0
        while block is not None and block.first < stop:
            end = block.first + len(block.rows)
            to = slice(max(block.first, start) - start, min(end, stop) - start)
            of = slice(max(block.first, start) - block.first, min(end, stop) - block.first)
            window.rows[to], window.tokens[to], window.flags[to] = block.rows[of], block.tokens[of], block.flags[of]
            if end > stop:
                break
            block = next(blocks, None)
        yield window
