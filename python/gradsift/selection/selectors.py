"""Which rows of a scored pool are taken. All break ties by the smaller row number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradsift.selection.scan import Pool
from gradsift.selection.sources import SampleId

SELECTORS = ("top", "round_robin", "random")


@dataclass(frozen=True)
class Choice:
    """Selected rows, best first: positions (k,) int64, scores (k,) float32, the column of each (k,) int32."""

    positions: np.ndarray
    scores: np.ndarray
    columns: np.ndarray


class Selector(Protocol):
    """Sees the scores of every window in order of rows, then chooses."""

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None: ...
    def choose(self, pool: Pool, ids: Sequence[SampleId | None]) -> Choice: ...


def make_selector(name: str, *, count: int, n_columns: int, reduce: str, seed: int) -> Selector:
    """The selector `name` for `count` rows."""
    if name == "top":
        return Top(count)
    if name == "round_robin":
        if reduce == "mean":
            raise ValueError(
                "selector: expected one that reads a single score with reduce=\"mean\", got 'round_robin'; "
                'it takes turns between subtasks: use reduce="less"'
            )
        return RoundRobin(count, n_columns)
    if name == "random":
        return Random(count, seed)
    raise ValueError(f"selector: expected one of {SELECTORS}, got {name!r}")


def selection_size(fraction: float | None, count: int | None, n_rows: int) -> int:
    """How many rows are asked for, of a pool of `n_rows`."""
    if (fraction is None) == (count is None):
        got = "neither" if fraction is None else "both"
        raise ValueError(f"fraction, count: expected exactly one of them, got {got}")
    if count is not None:
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)):
            raise TypeError(f"count: expected an int, got {type(count).__name__}")
        if not 1 <= count <= n_rows:
            raise ValueError(f"count: expected 1 … {n_rows}, the rows of the pool, got {count}")
        return int(count)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float, np.floating)):
        raise TypeError(f"fraction: expected a float, got {type(fraction).__name__}")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction: expected 0 < fraction <= 1, got {fraction}")
    # 0.29 · 100 is 28.999999999999996 in binary: a fraction means the decimal that was written
    return max(1, math.floor(float(fraction) * n_rows * (1.0 + 1e-12)))


def best_first(scores: np.ndarray, positions: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` best: higher score first, then smaller position. No NaN among the scores.

    `positions` ascend. Linear in their number, then sorts only what is taken.
    """
    n = len(scores)
    if count < n:
        threshold = np.partition(scores, n - count)[n - count]
        above = np.flatnonzero(scores > threshold)
        equal = np.flatnonzero(scores == threshold)
        taken = np.concatenate([above, equal[: count - len(above)]])
    else:
        taken = np.arange(n)
    return np.asarray(taken[np.lexsort((positions[taken], -scores[taken]))])


class Top:
    """The rows of highest influence: LESS."""

    def __init__(self, count: int) -> None:
        self._count = count

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None:
        """Nothing: the pool keeps the influence."""

    def choose(self, pool: Pool, ids: Sequence[SampleId | None]) -> Choice:
        positions = np.flatnonzero(pool.reason == 0)
        positions = positions[best_first(pool.influence[positions], positions, self._count)]
        return Choice(positions, pool.influence[positions], pool.best[positions])


class Random:
    """A uniform choice, the baseline: rows in order of BLAKE2b-64 of their id, keyed by the seed.

    A sample's place depends on its id and the seed only, not on the pool around it, the platform or a library's
    generator.
    """

    def __init__(self, count: int, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed: expected an int, got {type(seed).__name__}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: expected 0 … 2**64 - 1, got {seed}")
        self._count = count
        self._key = seed.to_bytes(8, "little")

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None:
        """Nothing: the choice does not depend on scores."""

    def choose(self, pool: Pool, ids: Sequence[SampleId | None]) -> Choice:
        positions = np.flatnonzero(pool.reason == 0)
        draws = np.array([self._draw(ids[i]) for i in positions.tolist()], dtype=np.uint64)
        positions = positions[np.lexsort((positions, draws))[: self._count]]
        return Choice(positions, pool.influence[positions], pool.best[positions])

    def _draw(self, sample_id: SampleId | None) -> int:
        text = str(sample_id).encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=self._key).digest(), "little")


class RoundRobin:
    """The columns take turns, in their order, each taking its best row that no other has taken yet.

    A row's score is that of the column that took it. Keeps the best `count` rows of each column, which is all that
    `count` turns can reach: at most ``S · 12 · (count + max(count, 4096))`` bytes.
    """

    def __init__(self, count: int, n_columns: int) -> None:
        self._count = count
        self._columns = [_RunningTop(count) for _ in range(n_columns)]

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None:
        rows = np.flatnonzero(eligible)
        for column, top in enumerate(self._columns):
            top.add(scores[rows, column], rows + first)

    def choose(self, pool: Pool, ids: Sequence[SampleId | None]) -> Choice:
        count = min(self._count, int((pool.reason == 0).sum()))
        queues = [zip(*top.result(), strict=True) for top in self._columns]
        taken: dict[int, tuple[float, int]] = {}
        while len(taken) < count:
            for column, queue in enumerate(queues[: count - len(taken)]):
                for score, position in queue:
                    if position not in taken:
                        taken[position] = (score, column)
                        break
        return Choice(
            np.fromiter(taken, np.int64, len(taken)),
            np.array([score for score, _ in taken.values()], np.float32),
            np.array([column for _, column in taken.values()], np.int32),
        )


class _RunningTop:
    """The best `count` of what was added, positions ascending between calls; sorts once in `count` additions."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts = [(np.empty(0, np.float32), np.empty(0, np.int64))]
        self._held = 0
        self._threshold = -np.inf

    def add(self, scores: np.ndarray, positions: np.ndarray) -> None:
        # a later row that only equals the last of `count` loses the tie
        keep = np.flatnonzero(scores > self._threshold)
        if len(keep) == 0:
            return
        self._parts.append((scores[keep], positions[keep]))
        self._held += len(keep)
        if self._held >= self._count + max(self._count, 4096):
            self._compact()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and positions, best first."""
        self._compact()
        scores, positions = self._parts[0]
        order = best_first(scores, positions, self._count)
        return scores[order], positions[order]

    def _compact(self) -> None:
        scores, positions = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        kept = np.sort(best_first(scores, positions, self._count))
        self._parts, self._held = [(scores[kept], positions[kept])], len(kept)
        if self._held == self._count:
            self._threshold = float(scores[kept].min())
