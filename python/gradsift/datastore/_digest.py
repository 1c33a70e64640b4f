"""The digest of a shard's file, computed beside its writing: both leave the interpreter's lock free."""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread
from typing import Any

_PIECE_BYTES = 4 << 20
# Buffers that wait to be hashed: whoever makes them as it goes must not fill the memory with them.
_WAITING = 8


class FileDigest:
    """BLAKE2b with 32 bytes of output over the buffers given to `update`, in that order.

    The buffers must not change until `digest` or `close` returns, which end the thread.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=32)
        self._given: Queue[Any] = Queue(_WAITING)
        self._closed = False
        self._thread = Thread(target=self._run, name="gradsift-digest", daemon=True)
        self._thread.start()

    def update(self, buffer: Any) -> None:
        self._given.put(buffer)

    def digest(self) -> bytes:
        """Waits for what was given."""
        self._given.put(None)
        self._thread.join()
        return self._hash.digest()

    def close(self) -> None:
        """Gives up what is not hashed yet."""
        self._closed = True
        self._given.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (buffer := self._given.get()) is not None:
            view = memoryview(buffer).cast("B")
            for at in range(0, len(view), _PIECE_BYTES):
                if self._closed:  # goes on taking what is given, so that nobody waits for room
                    break
                self._hash.update(view[at : at + _PIECE_BYTES])
