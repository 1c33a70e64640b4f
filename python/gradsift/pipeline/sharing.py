"""Several processes collect into one store: each claims the units that it makes."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING

from gradsift.pipeline.progress import Advance, Reporter

if TYPE_CHECKING:
    from gradsift.pipeline.filling import RowKeeper

_LOOK_AGAIN_SECONDS = 0.5


def claimed_units(
    store: RowKeeper, rows: int, shard_rows: int, advance: Advance, reporter: Reporter
) -> Generator[range, None, None]:
    """Units of ``[0, rows)`` that are missing, each claimed for this process until the next one is asked for.

    Ends when none is missing: units that other processes have claimed are waited for, and made here if their process
    ends without publishing them. What others publish is told to `advance`.
    """
    waiting = False
    while missing := _units(store, rows, shard_rows):
        mine = 0
        for unit in missing:
            claim = store.claim(unit)
            if claim is None:
                continue
            with claim:
                _look(store, rows, advance)  # its last owner may have published it since
                if any(unit.start in gap for gap in store.missing(rows)):
                    mine += 1
                    yield unit
        _look(store, rows, advance)
        if not mine and store.missing(rows):
            if not waiting:
                reporter.say(f"{len(_units(store, rows, shard_rows))} units are left, all at other processes: waiting")
            waiting = True
            time.sleep(_LOOK_AGAIN_SECONDS)


def _units(store: RowKeeper, rows: int, shard_rows: int) -> list[range]:
    """What is missing, cut at multiples of `shard_rows`: as one process alone would cut it."""
    units = []
    for gap in store.missing(rows):
        first = gap.start
        while first < gap.stop:
            stop = min(gap.stop, (first // shard_rows + 1) * shard_rows)
            units.append(range(first, stop))
            first = stop
    return units


def _look(store: RowKeeper, rows: int, advance: Advance) -> None:
    """Learns what others published."""
    before = sum(map(len, store.missing(rows)))
    store.refresh()
    published = before - sum(map(len, store.missing(rows)))
    if published:
        advance(published)
