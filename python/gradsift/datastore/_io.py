"""Files of one store directory: read without following links, published whole or not at all.

Every name is relative to an open directory handle, so nothing outside the directory can be reached and a directory
that is moved while it is open stays the same directory.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np

from gradsift.datastore.claims import CLAIM_PREFIX, Claim, claim_rows
from gradsift.errors import (
    DatastoreCorruptError,
    DatastoreError,
    DatastoreExistsError,
    DatastoreSpaceError,
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value

TEMP_PREFIX = ".tmp-"
_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_COMPARE_BYTES = 1 << 20
_START_BYTES = 4 << 20


class Directory:
    """An open store directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.readers = len(os.sched_getaffinity(0))
        try:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise DatastoreError(
                f"{self.path!r}: expected the directory of a datastore, got {error.strerror}; "
                "make one with Datastore.create"
            ) from error

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def file(self, name: str) -> str:
        """How messages name `name`: with its directory, and with what a terminal would interpret escaped."""
        return repr(os.path.join(self.path, name))

    def names(self) -> list[str]:
        """Names in the directory, sorted; temporaries left out."""
        return sorted(name for name in self._listed() if not name.startswith(TEMP_PREFIX))

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self._fd)
        except OSError as error:
            raise DatastoreError(f"{self.path!r}: cannot be listed: {error.strerror}") from error

    def open_read(self, name: str) -> tuple[int, int]:
        """Handle and length in bytes of the regular file `name`; links and special files are refused."""
        # Without O_NONBLOCK a named pipe in a stranger's directory would make the open wait for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=self._fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise DatastoreCorruptError(
                    f"{self.file(name)}: expected a regular file, got a symbolic link; links are not followed"
                ) from error
            raise DatastoreError(f"{self.file(name)}: cannot be opened: {error.strerror}") from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise DatastoreCorruptError(f"{self.file(name)}: expected a regular file, got a special file")
        except OSError as error:
            os.close(fd)
            raise DatastoreError(f"{self.file(name)}: its length cannot be read: {error.strerror}") from error
        except BaseException:
            os.close(fd)
            raise
        return fd, status.st_size

    @contextmanager
    def reading(self, name: str) -> Iterator[tuple[int, int]]:
        """`open_read` for as long as the block lasts."""
        fd, size = self.open_read(name)
        try:
            yield fd, size
        finally:
            os.close(fd)

    @contextmanager
    def source(self, name: str) -> Iterator[LocalSource]:
        """The regular file `name`, open for as long as the block lasts."""
        with self.reading(name) as (fd, size):
            yield LocalSource(fd, size, self.file(name))

    def expect(self, names: list[str]) -> None:
        """These files are read next; nothing to do for local ones."""

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """All of the small file `name`."""
        with self.reading(name) as (fd, size):
            if size > limit_bytes:
                raise DatastoreCorruptError(f"{self.file(name)}: expected at most {limit_bytes} bytes, got {size}")
            return pread_exactly(fd, size, 0, self.file(name))

    def publish(
        self, name: str, chunks: Iterable[Any], size_bytes: int, check: Callable[[], None] | None = None
    ) -> bool:
        """Makes `name` hold `chunks` (buffers, `size_bytes` together), durably and at once.

        `check` is called last, and no other process publishes in this directory until `name` is there; what it
        raises ends the attempt.

        Returns True if this call put it there, False if the same bytes were there already. Other bytes under that
        name raise DatastoreExistsError. After an error nothing is visible that was not before, and no temporary is
        left.
        """
        with self._translated(name, size_bytes):
            temp, fd = self._open_temp()
            try:
                written = started = 0
                for chunk in chunks:
                    written += _write_all(fd, chunk)
                    if written - started >= _START_BYTES:
                        # The disk begins now and nobody waits; else all of its time comes after the last byte.
                        with suppress(OSError):  # advice; where it cannot be taken, fsync does all of the work
                            os.posix_fadvise(fd, started, written - started, os.POSIX_FADV_DONTNEED)
                        started = written
                if written != size_bytes:
                    raise AssertionError(f"{name}: laid out for {size_bytes} bytes, wrote {written}")
                # One attempt: after a failed fsync the kernel may have dropped the pages and call them clean.
                os.fsync(fd)
                with self._publishing() if check else nullcontext():
                    if check:
                        check()
                    linked = self._link(temp, name)
            finally:
                try:
                    with suppress(OSError):  # an orphan is ignored by readers and removed by the next resume
                        os.unlink(temp, dir_fd=self._fd)
                finally:
                    os.close(fd)
            try:
                os.fsync(self._fd)
            except OSError:
                if linked:  # whole, but not known to survive a power loss: it must not look committed
                    with suppress(OSError):
                        os.unlink(name, dir_fd=self._fd)
                raise
        return linked

    def prove(self, name: str) -> None:
        """Raises unless a published file cannot be replaced; `link` guarantees that."""

    def adopt(self, source: Directory, name: str, *, link: bool, check: Callable[[], None]) -> bool:
        """Puts the file `name` of `source` here under the same name, durably: as a hard link or as a copy.

        Where the two lie on different file systems, it is a copy. `check` and what is returned are as in `publish`.
        """
        with source.reading(name) as (fd, size):
            if link and self._linked(source, name, fd, check):
                return True
            parts = (
                pread_exactly(fd, min(_COMPARE_BYTES, size - at), at, source.file(name))
                for at in range(0, size, _COMPARE_BYTES)
            )
            return self.publish(name, parts, size, check)

    def _linked(self, source: Directory, name: str, fd: int, check: Callable[[], None]) -> bool:
        """Whether a hard link could be made, and was."""
        try:
            os.fsync(fd)
            with self._publishing():
                check()
                os.link(name, name, src_dir_fd=source._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.EXDEV, errno.EMLINK, *_NO_LINKS):
                return False
            raise DatastoreError(
                f"{self.file(name)}: cannot be linked to {source.file(name)}: {error.strerror}"
            ) from error
        self.sync()
        return True

    def claim(self, first: int, stop: int) -> Claim | None:
        """The claim to rows ``[first, stop)``; None if another process has it."""
        return claim_rows(self._fd, first, stop, self.path)

    def remove_stale(self, *, dry_run: bool = False) -> list[str]:
        """Removes temporaries and claims whose process is dead (their lock is free); returns their names."""
        removed = []
        for name in sorted(self._listed()):
            if not name.startswith((TEMP_PREFIX, CLAIM_PREFIX)):
                continue
            try:
                fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._fd)
            except OSError:  # gone meanwhile, not ours to open, or no plain file: leave it, readers ignore it
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not dry_run:
                    os.unlink(name, dir_fd=self._fd)
                removed.append(name)
            except OSError:  # its writer lives, or the file system has no locks to tell by
                continue
            finally:
                os.close(fd)
        return removed

    def _open_temp(self) -> tuple[str, int]:
        """A new temporary, locked for as long as its handle is open: the sign that its writer lives."""
        while True:
            temp = TEMP_PREFIX + uuid.uuid4().hex
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(temp, flags, 0o666, dir_fd=self._fd)
            try:
                with suppress(OSError):  # no locks on this file system: then nobody removes temporaries there either
                    fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:
                    return temp, fd
            except BaseException:
                with suppress(OSError):
                    os.unlink(temp, dir_fd=self._fd)
                os.close(fd)
                raise
            os.close(fd)  # taken for stale between open and lock

    def _link(self, temp: str, name: str) -> bool:
        """Gives `temp` its name. False if the same bytes have that name already."""
        try:
            os.link(temp, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except FileExistsError:
            self._check_same(temp, name)
            return False
        return True

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Holds the directory's lock: looking for overlapping shards and taking a name are one step for all writers.

        Network file systems may refuse locks on directories. There two writers of overlapping rows that cut their
        shards differently can both publish, and readers name the two shards.
        """
        with suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def sync(self) -> None:
        """Makes the names in the directory durable, those too whose writer died before it could."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise DatastoreError(f"{self.path!r}: the directory cannot be synced: {error.strerror}") from error

    def _check_same(self, temp: str, name: str) -> None:
        with self.reading(temp) as (new, new_size), self.reading(name) as (old, old_size):
            same = new_size == old_size and all(
                pread_exactly(new, size, at, self.file(temp)) == pread_exactly(old, size, at, self.file(name))
                for at in range(0, new_size, _COMPARE_BYTES)
                for size in (min(_COMPARE_BYTES, new_size - at),)
            )
        if not same:
            raise DatastoreExistsError(
                f"{self.file(name)}: expected no such file or one with the same bytes, got other bytes; another "
                "writer published these rows with other values: find out which is right, then delete or keep this file"
            )

    @contextmanager
    def _translated(self, name: str, size_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _SPACE:
                raise DatastoreSpaceError(
                    f"{self.file(name)}: expected room for {size_bytes} bytes, got {error.strerror} "
                    f"({self._free()} free); nothing was published, what was committed before is intact: "
                    "free space and resume"
                ) from error
            if error.errno in _NO_LINKS:
                raise DatastoreError(
                    f"{self.file(name)}: expected a writable directory on a file system with hard links, got "
                    f"{error.strerror}; nothing was published"
                ) from error
            raise DatastoreError(
                f"{self.file(name)}: could not be published: {error.strerror}; nothing of it is visible, resume once "
                "the cause is gone"
            ) from error

    def _free(self) -> str:
        try:
            status = os.fstatvfs(self._fd)
        except OSError as error:
            return f"an unknown number of bytes ({error.strerror})"
        return f"{status.f_bavail * status.f_frsize} bytes"


class LocalSource:
    """An open regular file."""

    def __init__(self, fd: int, size: int, file: str) -> None:
        self.size = size
        self._fd = fd
        self._file = file

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`."""
        return pread_exactly(self._fd, size, offset, self._file)

    def mapped(self) -> MappedFile:
        """The whole file, mapped read-only; it outlives this."""
        return MappedFile(map_file(self._fd, self.size, self._file))


class MappedFile:
    """The bytes of a mapped file."""

    def __init__(self, mapped: memoryview) -> None:
        self._bytes = mapped

    def view(self, start: int, stop: int, *, ahead: bool = False) -> tuple[memoryview, int]:
        """Bytes ``[start, stop)``, no copy; and 0, as they are always the same."""
        return self._bytes[start:stop], 0

    def ask(self, start: int, stop: int) -> None:
        """Has bytes ``[start, stop)`` read from the disk while the caller goes on."""
        address = np.frombuffer(self._bytes, np.uint8).ctypes.data
        first = (address + start) // mmap.PAGESIZE * mmap.PAGESIZE
        # A hint: where the system does not take it, pages are read as they are touched.
        _libc.madvise(first, address + stop - first, mmap.MADV_WILLNEED)


def make_directory(path: str) -> None:
    """Makes `path` (its parents must exist) and makes its name durable; a directory already there is accepted.

    One that is there may have been made by a writer that was killed before it synced the name: it is synced again.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(path)
        parent = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as error:
        kind = DatastoreSpaceError if error.errno in _SPACE else DatastoreError
        raise kind(f"{path!r}: the directory cannot be made: {error.strerror}") from error


def map_file(fd: int, size: int, file: str) -> memoryview:
    """`size` bytes of the open file, mapped read-only until the last view of them goes; the handle may be closed.

    Python's own mmap keeps a handle for each file, and a process may have a thousand or so: as many shards.
    """
    try:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        pages = (ctypes.c_ubyte * size).from_address(address)
        weakref.finalize(pages, _libc.munmap, address, size).atexit = False  # views may be in use to the very end
        if os.fstat(fd).st_size < size:
            raise DatastoreCorruptError(
                f"{file}: expected {size} bytes, got fewer; the file was cut while it was opened"
            )
    except OSError as error:
        raise DatastoreError(f"{file}: cannot be mapped: {error.strerror}") from error
    array = np.frombuffer(memoryview(pages), np.uint8)
    array.flags.writeable = False
    return array.data


def pread_exactly(fd: int, size: int, offset: int, file: str) -> bytes:
    """`size` bytes at `offset`, in as many reads as it takes."""
    parts = []
    try:
        while size:
            part = os.pread(fd, size, offset)
            if not part:
                raise DatastoreCorruptError(f"{file}: expected {size} more bytes at offset {offset}, got the end")
            parts.append(part)
            size -= len(part)
            offset += len(part)
    except OSError as error:
        raise DatastoreError(f"{file}: cannot be read at offset {offset}: {error.strerror}") from error
    return b"".join(parts)


def _write_all(fd: int, chunk: Any) -> int:
    view = memoryview(chunk).cast("B")
    size = len(view)
    while len(view):
        written = os.write(fd, view)
        if not written:  # some network and user-space file systems do this; it would go on for ever
            raise OSError(errno.EIO, "wrote no byte")
        view = view[written:]
    return size
