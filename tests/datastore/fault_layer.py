"""Stands between the datastore's `_io` and the operating system: logs every call, and makes one go wrong.

`installed` puts it in place of `os`, `fcntl` and the C library there. Syncing is logged and left out, so that
thousands of runs are quick; what a sync is worth is for `power_loss` to say, which replays the log.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gradsift.datastore import _io

# Calls that can fail. Not `close`: what it could tell of a file has been told by `fsync` before.
CALLS = {
    "os": (
        "mkdir",
        "open",
        "listdir",
        "fstat",
        "fstatvfs",
        "write",
        "pread",
        "fsync",
        "link",
        "unlink",
        "posix_fadvise",
    ),
    "fcntl": ("flock",),
    "_libc": ("mmap",),
}
_MODULES = {"os": os, "fcntl": fcntl, "_libc": _io._libc}


class Killed(BaseException):
    """The process is gone: no handler of the code under test can run, as every further call raises it too."""


class FaultLayer:
    """`fault` is called in place of call number `at` (from 0), with `onwards` of every later one too.

    With `after`, this is the next process on the same machine: the log goes on from that one's.

    Attributes
    ----------
    trace : list of str
        Names of the calls made, failed ones too.
    log : list of tuple
        What changed the disk, in order: ``("mkdir", path)``, ``("create", file, name)``,
        ``("write", file, offset, bytes)``, ``("sync", file)``, ``("link", file, name)``, ``("unlink", name)``,
        ``("syncdir", path)``; a file is a number.
    failed_call : str or None
        The first call that was at fault.
    failed_sync : tuple or None
        Where in the log a sync failed, and of which file (a number) or directory (a path).
    """

    def __init__(
        self,
        at: int = -1,
        fault: Callable[..., Any] | None = None,
        *,
        onwards: bool = False,
        after: FaultLayer | None = None,
    ) -> None:
        self.trace: list[str] = []
        self.log: list[tuple[Any, ...]] = []
        self.failed_sync: tuple[int, int | str] | None = None
        self.at, self.fault, self.onwards = at, fault, onwards
        self.failed_call: str | None = None
        self._file_of_fd: dict[int, int | str] = {}
        self._file_of_name: dict[str, int] = {}
        self._files = 0
        if after is not None:
            self.log = list(after.log)
            self._file_of_name, self._files = dict(after._file_of_name), after._files

    @property
    def dead(self) -> bool:
        return self.failed_call is not None and self.fault in (killed, killed_half_way)

    def wrap(self, module: str) -> Any:
        return _Module(self, module)

    def call(self, name: str, real: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        number = len(self.trace)
        self.trace.append(name)
        if self.fault is not None and (number == self.at or (self.onwards and number > self.at >= 0)):
            if self.failed_call is None:
                self.failed_call = name
            if name == "fsync":
                self.failed_sync = (len(self.log), self._file_of_fd[args[0]])
            return self.fault(self, name, real, *args, **kwargs)
        return self.do(name, real, *args, **kwargs)

    def do(self, name: str, real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Makes the call and logs it."""
        if name == "fsync":
            of = self._file_of_fd[args[0]]
            self.log.append(("sync", of) if isinstance(of, int) else ("syncdir", of))
            return None
        if name == "write":
            offset = os.lseek(args[0], 0, os.SEEK_CUR)
        result = real(*args, **kwargs)
        if name == "mkdir":
            self.log.append(("mkdir", os.path.abspath(args[0])))
        elif name == "open":
            self._opened(result, *args)
        elif name == "write":
            self.log.append(("write", self._file_of_fd[args[0]], offset, bytes(memoryview(args[1])[:result])))
        elif name == "link":
            self._file_of_name[args[1]] = self._file_of_name[args[0]]
            self.log.append(("link", self._file_of_name[args[0]], args[1]))
        elif name == "unlink":
            self._file_of_name.pop(args[0], None)
            self.log.append(("unlink", args[0]))
        return result

    def close(self, fd: int) -> None:
        if self.dead:
            raise Killed
        self._file_of_fd.pop(fd, None)
        os.close(fd)

    def end(self) -> None:
        """Closes what a killed process left open, as the kernel does."""
        for fd in self._file_of_fd:
            os.close(fd)
        self._file_of_fd.clear()

    def _opened(self, fd: int, name: str, flags: int, *_: Any) -> None:
        if flags & os.O_DIRECTORY:
            self._file_of_fd[fd] = os.path.abspath(name)
            return
        if flags & os.O_CREAT:
            self._files += 1
            self._file_of_name[name] = self._files
            self.log.append(("create", self._files, name))
        self._file_of_fd[fd] = self._file_of_name.setdefault(name, -1)


class _Module:
    def __init__(self, layer: FaultLayer, module: str) -> None:
        self._layer, self._module = layer, module

    def __getattr__(self, name: str) -> Any:
        real = getattr(_MODULES[self._module], name)
        if (self._module, name) == ("os", "close"):
            return self._layer.close
        if name not in CALLS[self._module]:
            return real
        return lambda *args, **kwargs: self._layer.call(name, real, args, kwargs)


@contextmanager
def installed(layer: FaultLayer) -> Iterator[FaultLayer]:
    """`layer` in place of the operating system, for `_io` alone."""
    before, start_bytes = {name: getattr(_io, name) for name in CALLS}, _io._START_BYTES
    try:
        for name in CALLS:
            setattr(_io, name, layer.wrap(name))
        _io._START_BYTES = 4096  # calls that only large files lead to are made for small ones too
        yield layer
    finally:
        _io._START_BYTES = start_bytes
        for name, module in before.items():
            setattr(_io, name, module)
        if layer.dead:
            layer.end()


def raising(code: int) -> Callable[..., Any]:
    """A fault: the call fails with `code`."""

    def fault(layer: FaultLayer, name: str, real: Any, *args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fault


def short(layer: FaultLayer, name: str, real: Any, *args: Any, **kwargs: Any) -> Any:
    """A fault: a write or a read does a part of what it was asked to; other calls are as ever."""
    if name == "write":
        return layer.do(name, real, args[0], memoryview(args[1])[: max(1, len(args[1]) // 3)])
    if name == "pread":
        return layer.do(name, real, args[0], max(1, args[1] // 3), args[2])
    return layer.do(name, real, *args, **kwargs)


def killed(layer: FaultLayer, name: str, real: Any, *args: Any, **kwargs: Any) -> Any:
    """A fault: the process is gone before the call. Install it with ``onwards=True``."""
    raise Killed


def killed_half_way(layer: FaultLayer, name: str, real: Any, *args: Any, **kwargs: Any) -> Any:
    """A fault: half of a write arrives, then the process is gone. Install it with ``onwards=True``."""
    if name == "write" and len(layer.trace) - 1 == layer.at:
        layer.do(name, real, args[0], memoryview(args[1])[: len(args[1]) // 2])
    raise Killed
