"""The row table: id, norms, label tokens, loss and flags of each row of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradsift.datastore.format import ID_INT64, ID_UTF8, aligned
from gradsift.errors import DatastoreCorruptError

FLAG_NO_LABELS = 1
FLAG_NONFINITE = 2
FLAG_ZERO = 4

UNKNOWN_TOKENS = -1

# The columns in the order of the file; the ids follow.
COLUMNS = (("grad_norm", "<f8"), ("gamma_norm", "<f8"), ("tokens", "<i8"), ("loss", "<f4"), ("flags", "<u4"))
_COLUMN_BYTES = sum(np.dtype(dtype).itemsize for _, dtype in COLUMNS)


@dataclass(frozen=True)
class Columns:
    """What is known of n rows besides the rows.

    Attributes
    ----------
    grad_norm, gamma_norm : (n,) float64
        ‖g‖ and ‖Γ‖; NaN where not known.
    tokens : (n,) int64
        Label tokens; −1 where not known.
    loss : (n,) float32
        NaN where not known.
    flags : (n,) uint32
        Bits ``FLAG_NO_LABELS``, ``FLAG_NONFINITE``, ``FLAG_ZERO``.
    """

    grad_norm: np.ndarray
    gamma_norm: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flags: np.ndarray

    def __getitem__(self, index: slice) -> Columns:
        return Columns(*(getattr(self, name)[index] for name, _ in COLUMNS))

    @classmethod
    def concatenate(cls, parts: list[Columns]) -> Columns:
        """All rows of `parts` in order; no rows for no parts."""
        return cls(
            *(
                np.concatenate([np.empty(0, dtype), *(getattr(p, name) for p in parts)]).astype(dtype, copy=False)
                for name, dtype in COLUMNS
            )
        )


def pack_table(ids: list[str] | list[int], columns: Columns) -> bytes:
    """The bytes of the row table of rows with these `ids`, all int or all str."""
    parts = [np.ascontiguousarray(getattr(columns, name), dtype).tobytes() for name, dtype in COLUMNS]
    if isinstance(ids[0], int):
        parts.append(np.asarray(ids, "<i8").tobytes())
    else:
        texts = [str(i).encode() for i in ids]
        offsets = np.zeros(len(texts) + 1, "<u8")
        np.cumsum([len(t) for t in texts], out=offsets[1:])
        parts += [offsets.tobytes(), *texts]
    packed = b"".join(parts)
    return packed + bytes(aligned(len(packed), 8) - len(packed))


class RowTable:
    """The row table of a shard, over its mapped bytes (which passed their checksum)."""

    def __init__(self, raw: memoryview, rows: int, id_kind: int, file: str) -> None:
        self._file = file
        self._rows = rows
        self._id_kind = id_kind
        fixed = rows * (_COLUMN_BYTES + 8) + (8 if id_kind == ID_UTF8 else 0)
        if len(raw) < fixed or (id_kind == ID_INT64 and len(raw) != fixed):
            raise DatastoreCorruptError(
                f"{file}: row table: expected {'' if id_kind == ID_INT64 else 'at least '}{fixed} bytes for {rows} "
                f"rows, got {len(raw)}"
            )
        arrays, at = [], 0
        for _, dtype in COLUMNS:
            arrays.append(np.frombuffer(raw, dtype, rows, at))
            at += arrays[-1].nbytes
        self.columns = Columns(*arrays)
        self._text = raw[fixed:]
        if id_kind == ID_INT64:
            self._ids = np.frombuffer(raw, "<i8", rows, at)
        else:
            self._ids = np.frombuffer(raw, "<u8", rows + 1, at)
            self._check_offsets()

    def ids(self, start: int, stop: int) -> list[str] | list[int]:
        """Ids of rows ``[start, stop)`` of the shard, as Python strings or integers."""
        if self._id_kind == ID_INT64:
            numbers: list[int] = self._ids[start:stop].tolist()
            return numbers
        bounds = self._ids[start : stop + 1].tolist()
        try:
            return [bytes(self._text[a:b]).decode() for a, b in pairwise(bounds)]
        except UnicodeDecodeError as error:
            raise DatastoreCorruptError(f"{self._file}: row table: expected ids in UTF-8, got {error}") from error

    def _check_offsets(self) -> None:
        offsets = self._ids
        end = int(offsets[-1])
        if offsets[0] != 0 or (offsets[1:] < offsets[:-1]).any() or aligned(end, 8) != len(self._text):
            raise DatastoreCorruptError(
                f"{self._file}: row table: expected id offsets that rise from 0 to the {len(self._text)} bytes of "
                f"text, got {int(offsets[0])} … {end}"
            )
        if any(self._text[end:]):
            raise DatastoreCorruptError(f"{self._file}: row table: expected zeros after the ids, got other bytes")
