"""Blocks of several checkpoints side by side, as they are stored, cut where any of them ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradsift.datastore import Datastore
from gradsift.datastore.format import ROW_DTYPES, rotation_seed
from gradsift.selection.sources import RowSource


@dataclass(frozen=True)
class StoredFormat:
    """How a source hands out its rows: the dtype's name and, for quantised rows, the seed of their rotation."""

    dtype: str
    seed: int

    def row_bytes(self, proj_dim: int) -> int:
        return proj_dim * ROW_DTYPES[self.dtype].bits // 8


def stored_format(source: RowSource) -> StoredFormat:
    """Datastores hand out what they hold, all others float32."""
    if isinstance(source, Datastore):
        return StoredFormat(source.dtype, rotation_seed(source.spec, source.dtype))
    return StoredFormat("float32", 0)


@dataclass(frozen=True)
class StoredPart:
    """Some rows of one checkpoint: ``rows`` (n, …) and, of quantised ones, ``scales`` (n,), as stored."""

    rows: np.ndarray
    scales: np.ndarray | None
    tokens: np.ndarray
    flags: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, part: slice) -> StoredPart:
        scales = None if self.scales is None else self.scales[part]
        return StoredPart(self.rows[part], scales, self.tokens[part], self.flags[part])


@dataclass(frozen=True)
class Stretch:
    """Rows ``first`` … ``stop − 1`` at every checkpoint, None at one that has not got them."""

    first: int
    stop: int
    parts: list[StoredPart | None]

    @property
    def missing(self) -> bool:
        return any(part is None for part in self.parts)

    def flags(self) -> np.ndarray:
        """(n,) uint32, the bits of all checkpoints."""
        found = np.zeros(self.stop - self.first, np.uint32)
        for part in self.parts:
            if part is not None:
                found |= part.flags.astype(np.uint32, copy=False)
        return found

    def stored(self) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Rows and scales of all checkpoints, none of which is missing."""
        parts = [part for part in self.parts if part is not None]
        return [part.rows for part in parts], [part.scales for part in parts]


def stretches(sources: Sequence[RowSource], n_rows: int, block_rows: int) -> Iterator[Stretch]:
    """All of ``0`` … ``n_rows − 1`` in order; blocks of at most `block_rows` are asked for."""
    readers = [_Reader(source, block_rows) for source in sources]
    first = 0
    while first < n_rows:
        stop = min(n_rows, *(reader.next_edge(first, n_rows) for reader in readers))
        yield Stretch(first, stop, [reader.cut(first, stop) for reader in readers])
        first = stop


def _blocks(source: RowSource, block_rows: int) -> Iterator[tuple[int, StoredPart]]:
    """Blocks in the form that `stored_format` tells of, each with the number of its first row."""
    if isinstance(source, Datastore):
        for block in source.blocks(block_rows):
            yield block.first, StoredPart(block.packed, block.scales, block.tokens, block.flags)
    else:
        for other in source.blocks(block_rows):
            yield other.first, StoredPart(other.rows, None, other.tokens, other.flags)


class _Reader:
    def __init__(self, source: RowSource, block_rows: int) -> None:
        self._blocks = _blocks(source, block_rows)
        self._first = self._end = 0
        self._block: StoredPart | None = None
        self._next_block()

    def _next_block(self) -> None:
        self._first, self._block = next(self._blocks, (0, None))
        self._end = self._first + (0 if self._block is None else len(self._block))

    def next_edge(self, row: int, otherwise: int) -> int:
        """Where the block that holds `row` ends, or else the next one begins."""
        while self._block is not None and self._end <= row:
            self._next_block()
        if self._block is None:
            return otherwise
        return self._end if self._first <= row else self._first

    def cut(self, first: int, stop: int) -> StoredPart | None:
        if self._block is None or not self._first <= first < self._end:
            return None
        return self._block.cut(slice(first - self._first, stop - self._first))
