"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from gradsift.errors import DiskFullError

_NO_ROOM_BYTES = 1 << 20


@contextmanager
def atomic_text(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A UTF-8 text file that replaces `path`, durably and at once, when the block ends without an error.

    Raises
    ------
    DiskFullError
        Nothing was written; what stood at `path` still does.
    """
    with _atomic(Path(path), "x", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def atomic_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """As `atomic_text`, for bytes."""
    with _atomic(Path(path), "xb") as file:
        yield file


@contextmanager
def _atomic(path: Path, mode: str, encoding: str | None = None, newline: str | None = None) -> Iterator[IO[Any]]:
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_path(path.parent)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"{str(path)!r}: expected room to write it, got {error.strerror}; nothing of it was written: "
                "free space and run again"
            ) from error
        raise


@contextmanager
def full_disk_explained(directory: Path) -> Iterator[None]:
    """Turns what other libraries raise when `directory` has no room left into `DiskFullError`.

    Some raise errors of their own without an errno; for those the room that is left decides.
    """
    try:
        yield
    except Exception as error:  # whatever a library raises; all that is not about room goes on as it came
        told = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if told or shutil.disk_usage(directory).free < _NO_ROOM_BYTES:
            raise DiskFullError(
                f"{directory}: expected room to write, got a full disk ({error}); what was finished before is intact: "
                "free space and run again"
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Makes the files in `folder`, written by others, survive a power loss: for a file that then vouches for them."""
    for path in (*folder.iterdir(), folder):
        if path == folder or not path.is_dir():
            sync_path(path)


def sync_path(path: Path) -> None:
    """Makes one file, or the names in one directory, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes `folder` and its parents, each durably: a file that is synced in a folder that is lost is lost."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_path(path.parent)


def write_text(path: Path, text: str) -> None:
    """Puts `text` at `path` whole or not at all, making its directory if needed."""
    with full_disk_explained(Path(path.anchor)):
        make_folder(path.parent)
    with atomic_text(path) as file:
        file.write(text)
