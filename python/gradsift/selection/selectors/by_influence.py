"""Selectors that look at nothing but the influence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradsift.selection.selectors.base import Scored, Selector, check_number
from gradsift.selection.selectors.queues import BestFirst, Choice, Ordered, Plan, best_first


def by_influence(scored: Scored, positions: np.ndarray) -> BestFirst:
    """The rows at `positions` (ascending), highest influence first."""
    return BestFirst(positions, scored.pool.influence[positions], scored.pool.best[positions])


@dataclass(frozen=True)
class Top(Selector):
    """Highest influence first: LESS."""

    name: ClassVar[str] = "top"

    def plan(self, scored: Scored) -> Plan:
        return Plan.single(by_influence(scored, scored.eligible))


@dataclass(frozen=True)
class Threshold(Selector):
    """All rows of an influence of at least `at_least`, highest first; a budget may cut them short and need not.

    Options
    -------
    at_least : float
    """

    name: ClassVar[str] = "threshold"
    needs_budget: ClassVar[bool] = False

    at_least: float

    def __post_init__(self) -> None:
        check_number("at_least", self.at_least)

    def plan(self, scored: Scored) -> Plan:
        rows = scored.eligible
        # compared in float64: the threshold means the number that was written, not the float32 next to it
        return Plan.single(by_influence(scored, rows[scored.pool.influence[rows].astype(np.float64) >= self.at_least]))


@dataclass(frozen=True)
class Band(Selector):
    """The rows between two quantiles of influence, highest first.

    Of the n eligible rows in the order of `top`, read backwards, those at places ``⌊low·n⌋ … ⌊high·n⌋ − 1``: bands that
    meet share no row and leave none out.

    Options
    -------
    low, high : float, 0 <= low < high <= 1
    """

    name: ClassVar[str] = "band"
    needs_budget: ClassVar[bool] = False

    low: float
    high: float

    def __post_init__(self) -> None:
        for option in ("low", "high"):
            check_number(option, getattr(self, option), "0 … 1", lambda x: 0.0 <= x <= 1.0)
        if self.low >= self.high:
            raise ValueError(f"high: expected more than low, {self.low}, got {self.high}")

    def plan(self, scored: Scored) -> Plan:
        rows = scored.eligible
        n = len(rows)
        # the same correction as of a fraction: 0.29 · 100 are 29 rows
        low, high = (min(n, math.floor(q * n * (1.0 + 1e-12))) for q in (self.low, self.high))
        order = rows[best_first(scored.pool.influence[rows], rows, n - low)][n - high :]
        return Plan.single(Ordered(Choice(order, scored.pool.influence[order], scored.pool.best[order])))
