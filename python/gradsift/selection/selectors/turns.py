"""Columns that take turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.scan import Observer
from gradsift.selection.selectors.base import Scored, Selector, check_choice, refuse_mean
from gradsift.selection.selectors.queues import BestFirst, Choice, InTurn, Ordered, Plan, Queue, best_first

OVER = (None, "targets", "subtasks")


def check_over(over: str | None, reduce: str) -> None:
    """Refuses turns of columns that the reduction does not make."""
    if over == "targets" and reduce != "max":
        raise ValueError(
            f'over: expected None or "subtasks" with reduce={reduce!r}, whose columns are subtasks, got "targets"; use '
            'reduce="max"'
        )


def members(columns: Columns, over: str | None) -> list[np.ndarray]:
    """The columns of each that takes turns: every column alone, or those of a subtask together."""
    if over != "subtasks":
        return [np.array([j]) for j in range(len(columns.names))]
    of = np.array(columns.subtask)
    return [np.flatnonzero(of == name) for name in columns.sizes]


@dataclass(frozen=True)
class RoundRobin(Selector):
    """Columns take turns in their order, each taking its best row that is not yet taken.

    A row's score is that of the column that took it, the highest of the subtask's where subtasks of several columns
    take turns.

    Options
    -------
    over : {"targets", "subtasks"}, optional
        Whose turns: target examples (with ``reduce="max"``) or subtasks. None: whichever the columns are, that is
        target examples with ``reduce="max"`` and subtasks otherwise.
    """

    name: ClassVar[str] = "round_robin"

    over: str | None = None

    def __post_init__(self) -> None:
        check_choice("over", self.over, OVER)

    def check(self, reduce: str) -> None:
        refuse_mean(self, reduce, "it takes turns between subtasks")
        check_over(self.over, reduce)

    def needs_scores(self, columns: Columns, depth: int | None) -> bool:
        return depth is None or any(len(of) > 1 for of in members(columns, self.over))

    def observer(self, columns: Columns, depth: int | None) -> Observer | None:
        if depth is None or self.needs_scores(columns, depth):
            return None
        return BestOfEach(depth, len(columns.names))

    def plan(self, scored: Scored) -> Plan:
        if isinstance(scored.watched, BestOfEach):
            queues: Sequence[Queue] = scored.watched.queues()
            return Plan(queues, InTurn(len(queues)))
        scores = scored.pool.scores
        assert scores is not None  # asked for by needs_scores
        queues = []
        for of in members(scored.columns, self.over):
            mine = scores[scored.eligible][:, of]
            best = mine.argmax(axis=1)
            queues.append(BestFirst(scored.eligible, mine[np.arange(len(mine)), best], of[best].astype(np.int32)))
        return Plan(queues, InTurn(len(queues)))


@dataclass(frozen=True)
class Rds(RoundRobin):
    """RDS+ (Ivison et al. 2025): subtasks take turns, each by its highest cosine to any of its examples.

    Meant for rows that are position-weighted means of a language model's last hidden states; see
    `gradsift.pipeline.embed`. The released code lets a task lose its turn where its best row is taken already; here it
    takes its next.
    """

    name: ClassVar[str] = "rds"

    over: str | None = "subtasks"

    def __post_init__(self) -> None:
        check_choice("over", self.over, ("subtasks",))

    def check(self, reduce: str) -> None:
        if reduce != "max":
            raise ValueError(f'reduce: expected "max" with selector "rds", which is defined by it, got {reduce!r}')


class BestOfEach:
    """Keeps the best `count` rows of every column as a scan passes: all that `count` turns can reach.

    At most ``S · 12 · (count + max(count, 4096))`` bytes and a window.
    """

    def __init__(self, count: int, n_columns: int) -> None:
        self._columns = [_RunningTop(count) for _ in range(n_columns)]

    def see(self, first: int, scores: np.ndarray, eligible: np.ndarray) -> None:
        rows = np.flatnonzero(eligible)
        for column, top in enumerate(self._columns):
            top.add(scores[rows, column], rows + first)

    def queues(self) -> Sequence[Ordered]:
        found = []
        for column, top in enumerate(self._columns):
            scores, positions = top.result()
            found.append(Ordered(Choice(positions, scores, np.full(len(scores), column, np.int32))))
        return found


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
