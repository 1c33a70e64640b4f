"""Orders to compare with, which no influence decides. The score handed out still is the influence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gradsift.selection.selectors.base import Scored, Selector, check_choice, draws
from gradsift.selection.selectors.queues import Choice, Ordered, Plan


@dataclass(frozen=True)
class Random(Selector):
    """A uniform choice: rows in order of BLAKE2b-64 of their id, keyed by the seed."""

    name: ClassVar[str] = "random"

    def plan(self, scored: Scored) -> Plan:
        rows = scored.eligible
        return _in_order(scored, rows[np.lexsort((rows, draws(scored, rows)))])


@dataclass(frozen=True)
class Length(Selector):
    """By the number of tokens: what a selection must beat that only looks for long answers.

    Options
    -------
    first : {"longest", "shortest"}
    """

    name: ClassVar[str] = "length"

    first: str = "longest"

    def __post_init__(self) -> None:
        check_choice("first", self.first, ("longest", "shortest"))

    def plan(self, scored: Scored) -> Plan:
        rows = scored.eligible
        lengths = scored.lengths[rows]
        if (lengths < 0).any():
            raise ValueError(
                f'lengths: expected the tokens of every row with selector "length", got none for '
                f"{int((lengths < 0).sum())} rows; pass lengths=[...], or a store that was collected with them"
            )
        return _in_order(scored, rows[np.lexsort((rows, -lengths if self.first == "longest" else lengths))])


def _in_order(scored: Scored, order: np.ndarray) -> Plan:
    return Plan.single(Ordered(Choice(order, scored.pool.influence[order], scored.pool.best[order])))
