"""How steps tell what they are doing, without knowing who listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

Advance = Callable[[int], None]


class Reporter(Protocol):
    """Hears of progress. `say` takes one line; `task` yields a function that is told how many units more are done.

    `done` units of the task's total were there before, by an earlier run: they count for the bar, not for the rate.
    """

    def say(self, line: str) -> None: ...

    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Any: ...


class SilentReporter:
    """Hears nothing: the default when steps are called from Python."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
        yield lambda n: None


def by_total(advance: Advance) -> Callable[[int, int], None]:
    """`advance`, told how many are done of how many instead of how many more."""
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        advance(done - before)
        before = done

    return progress


def duration(seconds: float) -> str:
    """`seconds` as people say it: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class LineReporter:
    """Plain lines, for logs and pipes: at most one every `seconds`, with rate and time left."""

    def __init__(self, write: Callable[[str], None], *, seconds: float = 15.0) -> None:
        self._write = write
        self._seconds = seconds

    def say(self, line: str) -> None:
        self._write(line)

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
        start = last = time.monotonic()
        before = done

        def advance(n: int) -> None:
            nonlocal done, last
            done += n
            now = time.monotonic()
            if now - last >= self._seconds and done < total:
                last = now
                rate = (done - before) / (now - start)
                left = duration((total - done) / rate) if rate > 0 else "unknown"
                self._write(f"{title}: {done}/{total} {unit}, {rate:.2f} a second, {left} left")

        yield advance
        self._write(f"{title}: {done}/{total} {unit} in {duration(time.monotonic() - start)}")


class TerminalReporter:
    """A live bar with rate and time left, for terminals."""

    def __init__(self, console: Any) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    @contextmanager
    def task(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class RateColumn(ProgressColumn):
            def render(self, task: Any) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.2f} {unit}/s" if speed else f"– {unit}/s")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            handle = progress.add_task(title, total=total, completed=done)
            yield lambda n: progress.advance(handle, n)
