"""Sets of row numbers, kept as sorted ranges that neither touch nor overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class RowRanges:
    """Which rows are there. Adding in order, the common case, costs a constant time a range."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def overlap(self, start: int, stop: int) -> range | None:
        """The first part of ``[start, stop)`` that is in the set, or None."""
        at = bisect_right(self._stops, start)
        if start < stop and at < len(self._starts) and self._starts[at] < stop:
            return range(max(start, self._starts[at]), min(stop, self._stops[at]))
        return None

    def add(self, start: int, stop: int) -> None:
        """Adds ``[start, stop)``, which must not overlap what is there."""
        if start == stop:
            return
        lo = bisect_left(self._stops, start)
        hi = bisect_right(self._starts, stop)
        if lo < hi:  # touches ranges lo … hi − 1
            start, stop = min(start, self._starts[lo]), max(stop, self._stops[hi - 1])
        self._starts[lo:hi] = [start]
        self._stops[lo:hi] = [stop]

    def missing(self, start: int, stop: int) -> list[range]:
        """The parts of ``[start, stop)`` that are not in the set, in order."""
        found = []
        for at in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[at] >= stop:
                break
            if start < self._starts[at]:
                found.append(range(start, self._starts[at]))
            start = self._stops[at]
        if start < stop:
            found.append(range(start, stop))
        return found

    def count(self, start: int, stop: int) -> int:
        """How many rows of ``[start, stop)`` are in the set."""
        return max(0, stop - start) - sum(len(gap) for gap in self.missing(start, stop))

    @property
    def stop(self) -> int:
        """One past the last row; 0 for an empty set."""
        return self._stops[-1] if self._stops else 0
