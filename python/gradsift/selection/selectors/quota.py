"""A share of the budget for every source, or for every band of lengths."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradsift.selection.selectors.base import Scored, Selector, check_choice, check_count, check_number
from gradsift.selection.selectors.by_influence import by_influence
from gradsift.selection.selectors.queues import ByShare, Plan


@dataclass(frozen=True)
class Quota(Selector):
    """Every group gets its share of the budget, and takes its rows of highest influence.

    The next row is that of the group furthest behind, by ``(taken + cost / 2) / share`` (Webster's method; cost 1, or
    the row's tokens where tokens are the budget): whole quotas are met exactly, others rounded to the nearest, and what
    a group cannot fill goes to the others by their shares.

    Options
    -------
    by : {"source", "length"}
    shares : "equal", "pool", or a mapping from group to a number
        Alike; as in the eligible pool; or in these proportions, with nothing for groups that are not named. Groups
        of lengths are called ``"0"``, ``"1"``, … from the shortest.
    bands : int, or rising tuple of int
        Of "length": that many bands of about equally many eligible rows, or the lengths at which a new band begins.
    """

    name: ClassVar[str] = "quota"

    by: str = "source"
    shares: str | Mapping[str, float] = "equal"
    bands: int | Sequence[int] = 4

    def __post_init__(self) -> None:
        check_choice("by", self.by, ("source", "length"))
        if isinstance(self.shares, str):
            check_choice("shares", self.shares, ("equal", "pool"))
        elif isinstance(self.shares, Mapping):
            for group, share in self.shares.items():
                check_number(f"shares[{group!r}]", share, "a number >= 0", lambda x: x >= 0.0)
            if not any(self.shares.values()):
                raise ValueError(f"shares: expected one share above 0 at least, got {dict(self.shares)}")
        else:
            raise TypeError(f'shares: expected "equal", "pool" or a mapping, got {type(self.shares).__name__}')
        if isinstance(self.bands, (list, tuple)):
            for edge in self.bands:
                check_count("bands", edge)
            if not self.bands or any(a >= b for a, b in zip(self.bands, self.bands[1:], strict=False)):
                raise ValueError(f"bands: expected rising lengths, got {list(self.bands)}")
        else:
            check_count("bands", self.bands)

    @property
    def needs_groups(self) -> bool:
        return self.by == "source"

    def plan(self, scored: Scored) -> Plan:
        names, group = self._groups(scored)
        shares = self._shares(names, group)
        rows = scored.eligible
        served = [g for g, share in enumerate(shares) if share > 0]
        queues = [by_influence(scored, rows[group == g]) for g in served]
        return Plan(queues, ByShare([shares[g] for g in served]))

    def _groups(self, scored: Scored) -> tuple[list[str], np.ndarray]:
        """Names, and (n,) int64, the group of every eligible row."""
        rows = scored.eligible
        if self.by == "source":
            assert scored.groups is not None  # asked for by needs_groups
            numbers: dict[str, int] = {}
            of = [numbers.setdefault(scored.groups[i], len(numbers)) for i in rows.tolist()]
            return list(numbers), np.array(of, np.int64)
        lengths = scored.lengths[rows]
        unknown = rows[lengths < 0]
        if len(unknown):
            raise ValueError(
                f"lengths: expected the tokens of every row with quotas by length, got none for {len(unknown)} rows "
                f"(first: {unknown[0]}); pass lengths=[...]"
            )
        if isinstance(self.bands, Sequence):
            edges: list[Any] = list(self.bands)
        else:
            edges = sorted({*np.quantile(lengths, np.arange(1, self.bands) / self.bands).tolist()})
        band = np.array([bisect_right(edges, length) for length in lengths.tolist()], np.int64)
        return [str(b) for b in range(len(edges) + 1)], band

    def _shares(self, names: list[str], group: np.ndarray) -> list[float]:
        sizes = np.bincount(group, minlength=len(names)).tolist()
        if self.shares == "equal":
            return [1.0 if size else 0.0 for size in sizes]
        if self.shares == "pool":
            return [float(size) for size in sizes]
        assert isinstance(self.shares, Mapping)
        strange = [name for name in self.shares if name not in names]
        if strange:
            raise ValueError(
                f"shares: expected groups of the eligible pool, {names[:20]}, got {strange[:20]}; a source that has "
                "no eligible sample can have no share"
            )
        return [float(self.shares.get(name, 0.0)) for name in names]
