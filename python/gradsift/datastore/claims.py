"""Claims: which process works on which rows of a store that several fill together.

A claim is a file ``.claim-<first>-<rows>`` in the store's directory with an exclusive ``flock`` on it. The kernel frees
the lock when its process ends, however it ends, so that a claim of the dead can be taken over at once and none is ever
waited for in vain. Claims only spare work: what two processes publish is compared, whether they claimed it or not.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from gradsift.errors import DatastoreError

CLAIM_PREFIX = ".claim-"
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


class Claim:
    """Rows ``[first, stop)`` that this process works on until `release`; `file` is the locked claim file's handle.

    A child that is forked meanwhile inherits the lock and keeps it until it ends.
    """

    def __init__(self, directory: int, name: str, file: int) -> None:
        self._directory = directory
        self._name = name
        self._file = file

    def release(self) -> None:
        """Gives the rows up, published or not."""
        if self._file < 0:
            return
        # Unlinked while it is locked: who opened it before finds no name on it and makes a new one.
        with suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory)
        os.close(self._file)
        self._file = -1

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def claim_rows(directory: int, first: int, stop: int, path: str) -> Claim | None:
    """The claim to rows ``[first, stop)`` of the store whose open directory is `directory`; None if a process has it.

    Raises DatastoreError where the file system has no locks.
    """
    name = f"{CLAIM_PREFIX}{first:015d}-{stop - first:08d}"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            file = os.open(name, flags, 0o666, dir_fd=directory)
        except OSError as error:
            raise DatastoreError(f"{path!r}: rows {first} … {stop - 1} cannot be claimed: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file).st_nlink:
                with suppress(OSError):  # a note for people, which nothing reads: a full disk need not stop the work
                    os.truncate(file, 0)
                    os.write(file, f"{os.uname().nodename} {os.getpid()}\n".encode())
                return Claim(directory, name, file)
        except OSError as error:
            os.close(file)
            if error.errno in _HELD:
                return None
            raise DatastoreError(
                f"{path!r}: expected a file system with locks, by which several processes share a store, got "
                f"{error.strerror}; run one process at a time there"
            ) from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # released between open and lock
