"""Rows in the order in which a selector would take them, and whose turn it is where several orders compete."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

_FIRST_ROWS = 4096


@dataclass(frozen=True)
class Choice:
    """Rows, best first: positions (k,) int64, scores (k,) float32, the column of each (k,) int32."""

    positions: np.ndarray
    scores: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, part: slice) -> Choice:
        return Choice(self.positions[part], self.scores[part], self.columns[part])


class Queue(Protocol):
    """Rows in a fixed order."""

    def __len__(self) -> int: ...
    def first(self, n: int) -> Choice: ...  # the first n; all where there are fewer


class Ordered:
    """A queue that is in order already."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def __len__(self) -> int:
        return len(self._choice)

    def first(self, n: int) -> Choice:
        return self._choice[:n]


class BestFirst:
    """Higher score first, then smaller position; sorted only as far as it is asked for.

    Parameters
    ----------
    positions : (n,) int64, ascending
    scores : (n,) float32, no NaN: what to order by
    columns : (n,) int32, or one column for all
    shown : (n,) float32, optional: the scores to hand out, where they are others
    """

    def __init__(
        self, positions: np.ndarray, scores: np.ndarray, columns: np.ndarray | int, shown: np.ndarray | None = None
    ) -> None:
        self._positions, self._scores, self._columns = positions, scores, columns
        self._shown = scores if shown is None else shown
        self._sorted = Choice(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int32))

    def __len__(self) -> int:
        return len(self._positions)

    def first(self, n: int) -> Choice:
        n = min(n, len(self))
        if n > len(self._sorted):
            order = best_first(self._scores, self._positions, min(len(self), max(n, 2 * len(self._sorted))))
            columns = (
                np.full(len(order), self._columns, np.int32) if isinstance(self._columns, int) else self._columns[order]
            )
            self._sorted = Choice(self._positions[order], self._shown[order].astype(np.float32, copy=False), columns)
        return self._sorted[:n]


class Turn(Protocol):
    """Says which queue is next. Hears what each one's front row costs (None: it is empty) and what was taken."""

    def front(self, queue: int, cost: int | None) -> None: ...
    def next(self) -> int | None: ...  # None where all are empty
    def took(self, queue: int, cost: int) -> None: ...  # before the queue's next `front`


class InTurn:
    """Queues one after the other, round and round."""

    def __init__(self, n_queues: int = 1) -> None:
        self._live = [True] * n_queues
        self._at = 0

    def front(self, queue: int, cost: int | None) -> None:
        self._live[queue] = cost is not None

    def next(self) -> int | None:
        for _ in self._live:
            if self._live[self._at]:
                return self._at
            self._at = (self._at + 1) % len(self._live)
        return None

    def took(self, queue: int, cost: int) -> None:
        self._at = (queue + 1) % len(self._live)


class ByShare:
    """The queue that is furthest behind its share: least ``(taken + cost / 2) / share``, the first of equals.

    Webster's method of seats for votes (Sainte-Laguë), by which whole quotas are met exactly.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self._shares = shares
        self._taken = [0] * len(shares)
        self._told = [0] * len(shares)  # how often each front changed: older entries of the heap are void
        self._heap: list[tuple[float, int, int]] = []

    def front(self, queue: int, cost: int | None) -> None:
        self._told[queue] += 1
        if cost is not None:
            need = (self._taken[queue] + cost / 2) / self._shares[queue]
            heapq.heappush(self._heap, (need, queue, self._told[queue]))

    def next(self) -> int | None:
        while self._heap:
            _, queue, told = self._heap[0]
            if told == self._told[queue]:
                return queue
            heapq.heappop(self._heap)
        return None

    def took(self, queue: int, cost: int) -> None:
        self._taken[queue] += cost


@dataclass(frozen=True)
class Plan:
    """One queue, or several that take turns."""

    queues: Sequence[Queue]
    turn: Turn

    @classmethod
    def single(cls, queue: Queue) -> Plan:
        return cls([queue], InTurn())


class Cursor:
    """Walks along a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._known = queue.first(_FIRST_ROWS)
        self._at = 0

    def peek(self, n: int = 1) -> np.ndarray:
        """Positions of the next n rows, or of as many as there are."""
        if self._at + n > len(self._known) < len(self._queue):
            self._known = self._queue.first(max(self._at + n, 2 * len(self._known)))
        positions: np.ndarray = self._known.positions[self._at : self._at + n]
        return positions

    def pop(self) -> tuple[float, int]:
        """Score and column of the row that `peek` shows first, which is left behind."""
        at = self._at
        self._at += 1
        return float(self._known.scores[at]), int(self._known.columns[at])


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
