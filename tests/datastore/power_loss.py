"""What a disk may hold after the power went: replays the log of a `FaultLayer` by the rules of POSIX, no kinder ones.

Of what was not synced, any part may be there and any part not: names come and go in any order, a file has its old
length or its new one, and of its bytes any sectors are old, new, or whatever was on the disk before.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

SECTORS = (512, 4096)


class Disk:
    """The store's directory on a disk: what is durable, and what is still on its way."""

    def __init__(self, store: str) -> None:
        self.store = os.path.abspath(store)
        self.made, self.made_durably = False, False
        self.names: dict[str, int] = {}
        self.pending_names: list[tuple[str, int | None]] = []  # (name, file), None where the name goes
        self.content: dict[int, bytearray] = {}
        self.pending_writes: dict[int, list[tuple[int, bytes]]] = {}

    def apply(self, entry: tuple[Any, ...]) -> None:
        kind, *rest = entry
        if kind == "mkdir" and rest[0] == self.store:
            self.made = True
        elif kind == "create":
            self.content[rest[0]], self.pending_writes[rest[0]] = bytearray(), []
            self.pending_names.append((rest[1], rest[0]))
        elif kind == "write":
            self.pending_writes[rest[0]].append((rest[1], rest[2]))
        elif kind == "sync":
            for offset, data in self.pending_writes[rest[0]]:
                put(self.content[rest[0]], offset, data)
            self.pending_writes[rest[0]] = []
        elif kind == "link":
            self.pending_names.append((rest[1], rest[0]))
        elif kind == "unlink":
            self.pending_names.append((rest[0], None))
        elif kind == "syncdir" and rest[0] == self.store:
            self.names, self.pending_names = renamed(self.names, self.pending_names), []
        elif kind == "syncdir" and rest[0] == os.path.dirname(self.store):
            self.made_durably = self.made

    def states(self, rng: np.random.Generator) -> Iterator[dict[str, bytes] | None]:
        """Contents of the directory after a loss of power now: each set of names, contents worst and drawn by `rng`.

        None: the directory is not there.
        """
        if not self.made_durably:
            yield None
        if not self.made:
            return
        n = len(self.pending_names)
        for kept in itertools.product([False, True], repeat=n) if n <= 6 else rng.random((64, n)) < 0.5:
            names = renamed(self.names, list(itertools.compress(self.pending_names, kept)))
            for how in ("nothing", "zeros", "all", *SECTORS * 4):
                yield {name: self._content(file, how, rng) for name, file in names.items()}
                if not any(self.pending_writes[file] for file in names.values()):
                    break

    def _content(self, file: int, how: str | int, rng: np.random.Generator) -> bytes:
        old, new = bytes(self.content[file]), bytearray(self.content[file])
        for offset, data in self.pending_writes[file]:
            put(new, offset, data)
        if how == "nothing" or not self.pending_writes[file]:
            return old
        if how == "all":
            return bytes(new)
        if how == "zeros":  # the length was written, the data were not
            return old + bytes(len(new) - len(old))
        sector = int(how)
        torn = bytearray(rng.bytes(len(new)))  # what the disk held before
        for at in range(0, len(new), sector):
            part = slice(at, at + sector)
            if rng.random() < 0.5:
                torn[part] = new[part]
            elif rng.random() < 0.5 or at < len(old):
                torn[part] = old[part].ljust(len(new[part]), b"\0")
        return bytes(torn)


def put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


def renamed(names: dict[str, int], changes: list[tuple[str, int | None]]) -> dict[str, int]:
    found: dict[str, int | None] = {**names}
    for name, file in changes:
        found[name] = file
    return {name: file for name, file in found.items() if file is not None}
