"""The os module with one call that goes wrong, to stand in for `os` in the datastore's `_io`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

STEPS = ("open", "write", "fsync", "link", "unlink")


class FaultyOS:
    """Like os; `fault` is called in place of the call number `at` (from 0) among those named in `calls`.

    `fault` gets the real function and its arguments. `trace` lists the names of the calls made.
    """

    def __init__(self, calls: tuple[str, ...] = STEPS, at: int = -1, fault: Callable[..., Any] | None = None) -> None:
        self.trace: list[str] = []
        self._calls, self._at, self._fault = calls, at, fault

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._calls:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.trace.append(name)
            if len(self.trace) - 1 == self._at and self._fault is not None:
                return self._fault(real, *args, **kwargs)
            return real(*args, **kwargs)

        return call


def raising(code: int) -> Callable[..., Any]:
    """A fault that raises OSError with `code`."""

    def fault(real: Any, *args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fault


def die(real: Any, *args: Any, **kwargs: Any) -> Any:
    """A fault: the process is gone before the call."""
    os._exit(9)


def die_half_way(real: Any, fd: int, data: Any) -> Any:
    """A fault for `write`: half of the bytes arrive, then the process is gone."""
    real(fd, memoryview(data)[: len(data) // 2])
    os._exit(9)
