"""What a selector is: its options, what it needs, and the plan it makes of a scored pool."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.selectors.queues import Plan

if TYPE_CHECKING:
    from gradsift.selection.rows import PoolRows
    from gradsift.selection.scan import Observer, Pool
    from gradsift.selection.sources import SampleId


@dataclass(frozen=True)
class Scored:
    """What a selector may look at.

    Attributes
    ----------
    pool : Pool
    columns : Columns
    reduce : str
    ids : the id of each row by its position
    lengths : (N,) int64, tokens of each row, -1 where not known
    groups : the source of each row, or None where none was told
    seed : int
    rows : the rows themselves, or None where they were not kept
    watched : the observer that the selector asked for
    """

    pool: Pool
    columns: Columns
    reduce: str
    ids: Sequence[SampleId | None]
    lengths: np.ndarray
    groups: Sequence[str] | None = None
    seed: int = 0
    rows: PoolRows | None = None
    watched: Observer | None = None

    @cached_property
    def eligible(self) -> np.ndarray:
        """Positions of the rows that may be selected, ascending."""
        allowed = self.pool.reason == 0
        return np.flatnonzero(allowed if self.pool.rescored is None else allowed & self.pool.rescored)


@dataclass(frozen=True)
class Selector(ABC):
    """Frozen dataclasses whose fields are the options of the selector `name`; they check themselves when made.

    `needs_budget`: one of fraction and count must be given. `needs_rows`: the rows of the pool are read once more.
    """

    name: ClassVar[str]
    needs_budget: ClassVar[bool] = True
    needs_rows: ClassVar[bool] = False

    @property
    def needs_groups(self) -> bool:
        """Whether the source of every row must be told."""
        return False

    @property
    def near(self) -> float | None:
        """The cosine from which on it takes two rows for near-duplicates."""
        return None

    def check(self, reduce: str) -> None:  # noqa: B027  # most take any
        """Refuses a reduction that the selector can make nothing of."""

    def needs_scores(self, columns: Columns, depth: int | None) -> bool:
        """Whether it reads the score of every row for every column, if at most `depth` rows are taken off its plan."""
        return False

    def observer(self, columns: Columns, depth: int | None) -> Observer | None:
        """What must see the scores as they are made, instead."""
        return None

    @abstractmethod
    def plan(self, scored: Scored) -> Plan:
        """The order of the rows."""


def draws(scored: Scored, positions: np.ndarray) -> np.ndarray:
    """(n,) uint64: BLAKE2b-64 of each row's id, keyed by the seed.

    A row's draw depends on its id and the seed only, not on the pool around it, the platform or a library's generator.
    """
    key = scored.seed.to_bytes(8, "little")
    texts = (str(scored.ids[i]).encode("utf-8", "surrogatepass") for i in positions.tolist())
    return np.array(
        [int.from_bytes(hashlib.blake2b(t, digest_size=8, key=key).digest(), "little") for t in texts], np.uint64
    )


def check_seed(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {type(seed).__name__}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 … 2**64 - 1, got {seed}")
    return seed


def check_number(
    option: str, value: Any, contract: str = "a finite number", holds: Callable[[float], bool] = math.isfinite
) -> None:
    """Refuses an option that is no number, or none that `holds`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        raise TypeError(f"{option}: expected a number, got {type(value).__name__}")
    if not math.isfinite(value) or not holds(float(value)):
        raise ValueError(f"{option}: expected {contract}, got {value}")


def check_count(option: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{option}: expected an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{option}: expected at least {least}, got {value}")


def check_choice(option: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"{option}: expected one of {tuple(choices)}, got {value!r}")


def refuse_mean(selector: Selector, reduce: str, why: str) -> None:
    if reduce == "mean":
        raise ValueError(
            f'selector: expected one that reads a single score with reduce="mean", got {selector.name!r}; {why}: '
            'use reduce="less"'
        )
