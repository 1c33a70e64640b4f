"""A store on any file system that fsspec knows: ranged reads, and shards that appear whole, once, or not at all.

Nothing here trusts a cache of listings, retries on its own, or repeats what a credential says: retries and time limits
are the file system's (its options set them), and messages are cleaned of every secret that was handed in.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gradsift.datastore.claims import Claim
from gradsift.datastore.format import HEADER_BYTES
from gradsift.errors import DatastoreCorruptError, DatastoreError, DatastoreExistsError, DependencyMissingError

TEMP_PREFIX = ".tmp-"
# Row table, block checksums and footer of a shard of 4,096 rows with short ids; longer ones cost one request more.
TAIL_BYTES = 256 << 10
# Reading on from one place: a whole shard of 4,096 rows of 8,192 16-bit numbers in one request.
AHEAD_BYTES = 80 << 20
PART_BYTES = 16 << 20  # of an upload in parts
_READERS = 4  # each may hold AHEAD_BYTES
# Where pipe_file(mode="create") publishes whole objects under a condition; `prove` tests the condition on the spot.
_PUBLISHING = {"memory", "s3", "s3a", "gs", "gcs"}
_HARMLESS = ("endpoint", "region", "protocol")
_SIGNED = re.compile(r"(?i)\b(x-amz-[a-z-]+|x-goog-[a-z-]+|signature|sig|token|awsaccesskeyid|password)=[^&\s'\"]+")
_SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def shown_url(url: str) -> str:
    """`url` without user, password and query, for messages."""
    return re.sub(r"\?.*", "?…", re.sub(r"://[^/@]*@", "://", url), flags=re.DOTALL)


@dataclass(frozen=True)
class _Span:
    """Bytes of one file that were fetched last; `serial` tells two fetches apart."""

    name: str
    start: int
    data: bytes
    serial: int

    def view(self, name: str, start: int, stop: int) -> memoryview | None:
        if name != self.name or start < self.start or stop > self.start + len(self.data):
            return None
        return memoryview(self.data)[start - self.start : stop - self.start]


class RemoteDirectory:
    """A store's directory behind fsspec, with the interface of `_io.Directory`."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.path = shown_url(url)
        self._secrets = _secrets(url, storage_options or {})
        try:
            import fsspec
        except ImportError as error:
            raise DependencyMissingError(
                f"{self.path!r}: expected fsspec, which opens such paths, got none; pip install 'gradsift[remote]'"
            ) from error
        try:
            self._fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        except ImportError as error:
            raise DependencyMissingError(
                f"{self.path!r}: expected the package that reaches this file system, got none ({self._clean(error)}); "
                "for S3: pip install 'gradsift[remote]'"
            ) from self._cause(error)
        except Exception as error:  # whatever the file system raises at options it does not take
            raise ValueError(
                f"path: expected the URL of a file system that fsspec opens, got {self.path!r} ({self._clean(error)})"
            ) from self._cause(error)
        self._root = str(root).rstrip("/")
        protocol = self._fs.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._sizes: dict[str, int | None] = {}  # as last listed; None: no file
        self._ends: dict[str, list[tuple[int, Any]]] = {}
        self.readers = _READERS
        self._last = threading.local()  # what was fetched last: each thread reads on from a place of its own
        self._serials = itertools.count(1)

    def close(self) -> None:
        """Nothing to do: connections are the file system's, which others may share."""

    def __enter__(self) -> RemoteDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def file(self, name: str) -> str:
        """How messages name `name`."""
        return repr(f"{self.path.rstrip('/')}/{name}")

    def names(self) -> list[str]:
        """Names in the directory as it is now, sorted; temporaries and folders that are no shards' left out."""
        try:
            self._fs.invalidate_cache(self._root)
            entries = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:  # object stores know no empty directory
            entries = []
        except Exception as error:  # each file system has errors of its own
            raise self._failed(self.path, "cannot be listed", error) from self._cause(error)
        self._sizes = {}
        for entry in entries:
            folder, _, name = entry["name"].rstrip("/").rpartition("/")
            if name and folder.strip("/") == self._root.strip("/") and not name.startswith(TEMP_PREFIX):
                self._sizes[name] = entry.get("size") if entry["type"] == "file" else None
        return sorted(self._sizes)

    def expect(self, names: list[str]) -> None:
        """Fetches the ends of these files, which opening them reads, side by side."""
        wanted = []
        for name in names:
            size = self._sizes.get(name) or 0
            if 0 < size <= HEADER_BYTES + TAIL_BYTES:
                wanted.append((name, 0, size))
            elif size:
                wanted += [(name, 0, HEADER_BYTES), (name, size - TAIL_BYTES, size)]
        if not wanted:
            return
        paths, starts, stops = ([self._place(name) for name, _, _ in wanted], *([w[i] for w in wanted] for i in (1, 2)))
        try:
            parts = self._fs.cat_ranges(paths, starts, stops, on_error="return")
        except Exception as error:  # each file system has errors of its own
            raise self._failed(self.path, "cannot be read", error) from self._cause(error)
        for (name, start, _), part in zip(wanted, parts, strict=True):
            self._ends.setdefault(name, []).append((start, part))

    def source(self, name: str) -> RemoteSource:
        """The file `name`, to read ranges of."""
        if name in self._sizes and self._sizes[name] is None:
            raise DatastoreCorruptError(f"{self.file(name)}: expected a file, got a folder")
        ends = []
        for start, part in self._ends.pop(name, []):
            if isinstance(part, Exception):
                raise self._failed(self.file(name), "cannot be read", part) from self._cause(part)
            ends.append(_Span(name, start, part, 0))
        return RemoteSource(self, name, self._size(name), ends)

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """All of the small file `name`."""
        size = self._size(name)
        if size > limit_bytes:
            raise DatastoreCorruptError(f"{self.file(name)}: expected at most {limit_bytes} bytes, got {size}")
        return self.fetch(name, 0, size) if size else b""

    def fetch(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``[start, stop)`` of the file `name`, in one request."""
        try:
            data = bytes(self._fs.cat_file(self._place(name), start=start, end=stop))
        except Exception as error:  # each file system has errors of its own
            raise self._failed(self.file(name), f"cannot be read at offset {start}", error) from self._cause(error)
        if len(data) != stop - start:
            raise DatastoreCorruptError(
                f"{self.file(name)}: expected {stop - start} bytes at offset {start}, got {len(data)}; the file was cut"
            )
        return data

    def view(self, name: str, start: int, stop: int, fetch_stop: int) -> tuple[memoryview, int]:
        """Bytes ``[start, stop)`` of `name`, fetched up to `fetch_stop` unless the last fetch has them; its serial."""
        span: _Span | None = getattr(self._last, "span", None)
        found = span.view(name, start, stop) if span else None
        if span is None or found is None:
            span = _Span(name, start, self.fetch(name, start, fetch_stop), next(self._serials))
            self._last.span = span  # one for the whole directory: what was read before is let go
            found = memoryview(span.data)[: stop - start]
        return found, span.serial

    def publish(
        self, name: str, chunks: Iterable[Any], size_bytes: int, check: Callable[[], None] | None = None
    ) -> bool:
        """Makes `name` hold `chunks`, whole and only if nothing has that name; holds all of them in memory.

        `check` is called last before; what other processes publish between the two it cannot see.

        Returns True if this call put it there, False if the same bytes were there already. Other bytes under that
        name raise DatastoreExistsError. An upload that is broken off leaves no object.
        """
        data = b"".join(chunks)
        if len(data) != size_bytes:
            raise AssertionError(f"{name}: laid out for {size_bytes} bytes, wrote {len(data)}")
        self._check_publishes(name)
        if check:
            check()
        try:
            self._create(name, data)
        except Exception as error:  # a refused condition has as many names as there are file systems
            there = self._there(name)
            if there is None:
                raise self._failed(
                    self.file(name), "could not be published; resume once the cause is gone", error
                ) from self._cause(error)
            if there != data:
                raise DatastoreExistsError(
                    f"{self.file(name)}: expected no such file or one with the same bytes, got other bytes; another "
                    "writer published these rows with other values: find out which is right, then delete or keep "
                    "this file"
                ) from self._cause(error)
            return False
        return True

    def claim(self, first: int, stop: int) -> Claim | None:
        """Raises DatastoreError: object stores have no locks that end with their process."""
        raise DatastoreError(
            f"{self.path!r}: expected a local directory, where rows can be claimed, got a remote store; give each "
            "process rows of its own there"
        )

    def remove_stale(self, *, dry_run: bool = False) -> list[str]:
        """None: uploads need no temporaries. Parts of broken uploads are for the bucket's lifecycle rules."""
        return []

    def sync(self) -> None:
        """Nothing to do: what was answered is durable."""

    def prove(self, name: str) -> None:
        """Raises DatastoreError unless the file system refuses to replace `name`, which is there, by its own bytes."""
        data = self.read(name, limit_bytes=1 << 30)
        try:
            self._create(name, data)
        except FileExistsError:
            return
        except Exception as error:  # each file system has errors of its own
            if (
                isinstance(error, OSError) and error.errno == errno.EINVAL
            ):  # s3fs, where servers leave out which condition
                return
            raise self._failed(
                self.file(name),
                "whether a second writer is refused could not be seen; resume once the cause is gone",
                error,
            ) from self._cause(error)
        raise DatastoreError(
            f"{self.file(name)}: expected a server that honours conditional writes (If-None-Match: *), got one that "
            "replaces what is there, so that two writers could overwrite each other; write to another server, or to a "
            "local directory that is copied when it is finished"
        )

    def _create(self, name: str, data: bytes) -> None:
        options = {} if "memory" in self._protocols else {"chunksize": PART_BYTES}
        self._fs.pipe_file(self._place(name), data, mode="create", **options)

    def _check_publishes(self, name: str) -> None:
        if not self._protocols & _PUBLISHING:
            raise DatastoreError(
                f"{self.file(name)}: expected a file system that publishes files whole and under a condition "
                f"({', '.join(sorted(_PUBLISHING))}), got {', '.join(sorted(self._protocols))}; write to a local "
                "directory and copy it when it is finished"
            )

    def _there(self, name: str) -> bytes | None:
        """What `name` holds; None if that cannot be read."""
        self._sizes.pop(name, None)
        try:
            return self.fetch(name, 0, self._size(name))
        except DatastoreError:
            return None

    def _size(self, name: str) -> int:
        size = self._sizes.get(name)
        if size is not None:
            return size
        try:
            self._fs.invalidate_cache(self._root)
            size = self._fs.info(self._place(name))["size"]
        except Exception as error:  # each file system has errors of its own
            raise self._failed(self.file(name), "cannot be opened", error) from self._cause(error)
        if not isinstance(size, int):
            raise DatastoreError(f"{self.file(name)}: expected a file system that tells lengths, got {size!r}")
        return size

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _failed(self, what: str, problem: str, error: BaseException) -> DatastoreError:
        return DatastoreError(f"{what}: {problem}: {self._clean(error)}")

    def _clean(self, error: BaseException) -> str:
        """The kind of `error` and its first line, without secrets."""
        text = next(iter(str(error).splitlines()), "")
        return f"{type(error).__name__}: {self._without_secrets(text)[:300]}"

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return _SIGNED.sub(r"\1=…", re.sub(r"://[^/@\s]*@", "://", text))

    def _cause(self, error: BaseException) -> BaseException | None:
        """`error`, to be shown as a cause; None if it or what caused it would show a secret."""
        at: BaseException | None = error
        while at is not None:
            if self._without_secrets(str(at)) != str(at):
                return None
            at = at.__cause__ or at.__context__
        return error


class RemoteSource:
    """One file of a remote directory; the interface of `_io.LocalSource` and of what that one maps."""

    def __init__(self, directory: RemoteDirectory, name: str, size: int, ends: list[_Span]) -> None:
        self.size = size
        self._directory = directory
        self._name = name
        self._ends = ends

    def __enter__(self) -> RemoteSource:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`."""
        return bytes(self.view(offset, offset + size)[0])

    def mapped(self) -> RemoteSource:
        return self

    def view(self, start: int, stop: int, *, ahead: bool = False) -> tuple[memoryview, int]:
        """Bytes ``[start, stop)`` and the serial of their fetch; `ahead` says that what follows is read next."""
        for span in self._ends:
            found = span.view(self._name, start, stop)
            if found is not None:
                return found, span.serial
        fetch_stop = max(stop, min(start + AHEAD_BYTES, self.size)) if ahead else stop
        return self._directory.view(self._name, start, stop, fetch_stop)

    def ask(self, start: int, stop: int) -> None:
        """Nothing: `view` fetches ahead where it is told to."""


def _secrets(url: str, options: Mapping[str, Any]) -> list[str]:
    """What must not be shown: values of options, of the environment, and of the URL's user part; longest first."""
    found = {os.environ[name] for name in _SECRET_VARIABLES if os.environ.get(name)}
    found |= {part for user in re.findall(r"://([^/@]*)@", url) for part in (user, *user.split(":"))}
    found |= set(_texts(options))
    return sorted((text for text in found if len(text) > 3), key=len, reverse=True)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not any(word in str(key).lower() for word in _HARMLESS):
                yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
