"""Where the time of collecting goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

PARTS = ("forward", "backward", "kernels", "store", "waiting", "other")
"""Forward and loss; backward without what hooks do in it; from layer inputs and output gradients to sketches; writing
rows; making batches; what is left."""

_OFF = nullcontext()


class Clock:
    """Wall-clock seconds by part of the work.

    Parts nest, and what an inner part takes is not the outer one's. Time outside every part is not counted, so the
    parts add up to what the outermost ones lasted.

    Parameters
    ----------
    enabled : bool
        A clock that is not costs nothing and stays at zero.
    synchronize : function, optional
        Called before each reading, so that work a device still has to do is counted where it was asked for.
    """

    def __init__(self, *, enabled: bool = True, synchronize: Callable[[], None] | None = None) -> None:
        self.enabled = enabled
        self._synchronize = synchronize
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def part(self, name: str) -> AbstractContextManager[Any]:
        """Counts the time in its block for part `name`, one of `PARTS`."""
        if not self.enabled:
            return _OFF
        if name not in self._seconds:
            raise ValueError(f"name: expected one of {PARTS}, got {name!r}")
        return _Part(self, name)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each part so far, up to the last change of parts."""
        return dict(self._seconds)

    def report(self) -> dict[str, Any]:
        """``{"total_seconds": …, "parts": {name: {"seconds": …, "share": …}}}``, JSON-able."""
        total = sum(self._seconds.values())
        parts = {n: {"seconds": s, "share": s / total if total else 0.0} for n, s in self._seconds.items()}
        return {"total_seconds": total, "parts": parts}

    def table(self) -> str:
        """The report as lines of text, the largest part first."""
        report = self.report()
        parts = sorted(report["parts"].items(), key=lambda item: -item[1]["seconds"])
        lines = [f"{name:<9}{part['seconds']:>10.2f} s {part['share']:>7.1%}" for name, part in parts]
        return "\n".join([*lines, f"{'total':<9}{report['total_seconds']:>10.2f} s"])

    def _enter(self, name: str) -> None:
        self._tick()
        self._running.append(name)

    def _leave(self) -> None:
        self._tick()
        self._running.pop()

    def _tick(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
        now = time.perf_counter()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now


class _Part:
    __slots__ = ("_clock", "_name")

    def __init__(self, clock: Clock, name: str) -> None:
        self._clock = clock
        self._name = name

    def __enter__(self) -> None:
        self._clock._enter(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock._leave()
