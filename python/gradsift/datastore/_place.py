"""Where a store lies: a local directory, or one behind fsspec; both with one small interface."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from gradsift.datastore._io import Directory, make_directory
from gradsift.datastore.claims import Claim

_LOCAL = re.compile(r"(?:file|local)://", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z0-9+.:/-]*)?://")


class Mapped(Protocol):
    """The bytes of a file that stays open."""

    def view(self, start: int, stop: int, *, ahead: bool = False) -> tuple[memoryview, int]:
        """Bytes ``[start, stop)``, and a number that is the same for bytes that were read once."""

    def ask(self, start: int, stop: int) -> None:
        """Says that bytes ``[start, stop)`` will be viewed next."""


class Source(Protocol):
    """A file while it is being opened."""

    @property
    def size(self) -> int: ...
    def read(self, offset: int, size: int) -> bytes: ...
    def mapped(self) -> Mapped: ...


class Place(Protocol):
    """The directory of a store. See `_io.Directory`, whose docstrings say what each does."""

    path: str
    readers: int  # threads that verify side by side

    def close(self) -> None: ...
    def file(self, name: str) -> str: ...
    def names(self) -> list[str]: ...
    def expect(self, names: list[str]) -> None: ...
    def source(self, name: str) -> AbstractContextManager[Source]: ...
    def read(self, name: str, *, limit_bytes: int) -> bytes: ...
    def publish(
        self, name: str, chunks: Iterable[Any], size_bytes: int, check: Callable[[], None] | None = None
    ) -> bool: ...
    def prove(self, name: str) -> None: ...
    def claim(self, first: int, stop: int) -> Claim | None: ...
    def remove_stale(self, *, dry_run: bool = False) -> list[str]: ...
    def sync(self) -> None: ...


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a URL that fsspec opens, and no path of this machine."""
    where = os.fspath(path)
    return _URL.match(where) is not None and _LOCAL.match(where) is None


def open_place(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None, *, make: bool = False
) -> Place:
    """The directory at `path`, a local path or a URL; with `make` it is made where directories need making.

    Raises ValueError for `storage_options` with a local path.
    """
    where = os.fspath(path)
    if is_remote(where):
        from gradsift.datastore._remote import RemoteDirectory

        return RemoteDirectory(where, storage_options)
    if storage_options:
        raise ValueError(
            f"storage_options: expected none for a local path, got {sorted(storage_options)} for {where!r}; name a "
            "remote file system as in s3://bucket/store"
        )
    where = _LOCAL.sub("", where)
    if make:
        make_directory(where)
    return Directory(where)
