"""Columns that vote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.selectors.base import Scored, Selector, check_choice, check_number, refuse_mean
from gradsift.selection.selectors.queues import BestFirst, Plan
from gradsift.selection.selectors.turns import OVER, check_over, members


@dataclass(frozen=True)
class Vote(Selector):
    """ICONS (Wu et al. 2025): most votes first, where a column votes for every row in its top share.

    ``votes(z) = #{j : s_j(z) >= the (1 − top) quantile of s_j over the eligible rows}``, the quantile interpolated
    linearly as NumPy does. Equal votes go to the higher influence, then to the smaller row number; the released code
    leaves their order open. The score handed out is the influence.

    Options
    -------
    top : float, 0 < top < 1
        Share of the pool that each column votes for.
    over : {"targets", "subtasks"}, optional
        Who votes; as in `RoundRobin`, a subtask of several columns by its highest score.
    """

    name: ClassVar[str] = "vote"

    top: float = 0.2
    over: str | None = None

    def __post_init__(self) -> None:
        check_number("top", self.top, "0 < top < 1", lambda x: 0.0 < x < 1.0)
        check_choice("over", self.over, OVER)

    def check(self, reduce: str) -> None:
        refuse_mean(self, reduce, "it counts the votes of subtasks")
        check_over(self.over, reduce)

    def needs_scores(self, columns: Columns, depth: int | None) -> bool:
        return True

    def plan(self, scored: Scored) -> Plan:
        rows = scored.eligible
        influence = scored.pool.influence[rows]
        # ordered by (votes, influence): the place in that order serves as the score to sort by
        votes = self.votes(scored)
        _, influence_rank = np.unique(influence, return_inverse=True)
        keys = votes * np.int64(len(rows) + 1) + influence_rank
        _, place = np.unique(keys, return_inverse=True)
        return Plan.single(BestFirst(rows, place.astype(np.float64), scored.pool.best[rows], shown=influence))

    def votes(self, scored: Scored) -> np.ndarray:
        """(n,) int64, votes of every eligible row."""
        scores = scored.pool.scores
        assert scores is not None  # asked for by needs_scores
        votes = np.zeros(len(scored.eligible), np.int64)
        for of in members(scored.columns, self.over):
            mine = scores[scored.eligible][:, of].max(axis=1).astype(np.float64)
            votes += mine >= np.quantile(mine, 1.0 - self.top)
        return votes
