"""Rows as they are stored: floats (bfloat16 travels as uint16), or bytes of codes with a scale and a norm for each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gradsift._native import round_rows
from gradsift.datastore.format import ROW_DTYPES
from gradsift.datastore.table import FLAG_NONFINITE, FLAG_ZERO
from gradsift.ops import dequantise_rows, quantise_rows

_FLOAT16_MIN_NORMAL = np.float32(2.0**-14)
_ENCODE_BYTES = 1 << 22


@dataclass(frozen=True)
class StoredRows:
    """n rows as a file has them.

    Attributes
    ----------
    numbers : (n, P) of the stored float dtype, or (n, P · bits / 8) uint8; C-contiguous
    scales : (n,) float32, norms : (n,) float64
        Of quantised rows, else None.
    """

    numbers: np.ndarray
    scales: np.ndarray | None = None
    norms: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, part: slice) -> StoredRows:
        if self.scales is None or self.norms is None:
            return StoredRows(self.numbers[part])
        return StoredRows(self.numbers[part], self.scales[part], self.norms[part])

    def same_bits(self, other: StoredRows) -> np.ndarray:
        """(n,) bool: which rows are the same, bit for bit, as those of `other`, rows of the same dtype."""
        same = np.ones(len(self), bool)
        for mine, others in zip(
            (self.numbers, self.scales, self.norms), (other.numbers, other.scales, other.norms), strict=True
        ):
            if mine is not None and others is not None:
                bits = f"V{mine.nbytes // max(len(mine), 1)}"
                same &= (mine.view(bits) == np.ascontiguousarray(others).view(bits)).reshape(-1)
        return same

    @classmethod
    def concatenate(cls, parts: Sequence[StoredRows]) -> StoredRows:
        """All rows of `parts`, one or more of one dtype, in order."""
        if len(parts) == 1:
            return parts[0]
        numbers = np.concatenate([part.numbers for part in parts])
        scales = [part.scales for part in parts if part.scales is not None]
        norms = [part.norms for part in parts if part.norms is not None]
        return cls(numbers, np.concatenate(scales), np.concatenate(norms)) if scales else cls(numbers)


class JoinedRows:
    """Pieces of one dtype, one after the other; copied only where a slice takes from two of them."""

    def __init__(self, pieces: Sequence[StoredRows]) -> None:
        self._pieces = pieces
        self._stops = list(accumulate(map(len, pieces)))

    def __getitem__(self, part: slice) -> StoredRows:
        start, stop, _ = part.indices(self._stops[-1])
        found = []
        for index in range(bisect_right(self._stops, start), len(self._pieces)):
            before = self._stops[index] - len(self._pieces[index])
            if before >= stop:
                break
            found.append(self._pieces[index][max(start - before, 0) : stop - before])
        return StoredRows.concatenate(found)


def encode_rows(rows: np.ndarray, dtype: str, ids: Sequence[object], *, seed: int = 0) -> tuple[StoredRows, np.ndarray]:
    """`rows` (n, P) of any floating dtype as stored, a copy, rounded to nearest even; and their flags (n,) uint32.

    NaN and Inf are kept and flagged; a quantised row that holds one is all NaN. A finite row that would overflow, or a
    non-zero one that would vanish or fall below float16's normal range altogether, raises ValueError with its id:
    stored, it would be another row. `seed` is that of the rotation of quantised rows.
    """
    if ROW_DTYPES[dtype].quantised:
        return _quantise(rows, dtype, ids, seed)
    stored = np.empty(rows.shape, ROW_DTYPES[dtype].numpy)
    if dtype == "bfloat16" and rows.dtype == "<f4":
        largest = _round_rows(rows, stored)
    else:
        largest = _store_rows(rows, dtype, stored)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # Rounding keeps order, so the largest magnitude stored is the largest magnitude, rounded.
        kept_bits = np.empty(largest.shape, stored.dtype)
        _encode(largest.astype("<f4"), dtype, kept_bits)
    kept = widen(kept_bits, dtype)
    lost = np.isfinite(largest) & ~np.isfinite(kept)
    lost |= (largest > 0) & ((kept < _FLOAT16_MIN_NORMAL) if dtype == "float16" else (kept == 0))
    if lost.any():
        bad = int(np.argmax(lost))
        raise ValueError(
            f"sketches: expected rows within the range of {dtype}, got a largest magnitude of "
            f"{float(largest[bad]):.3g} for id {ids[bad]!r}; store them as "
            f"{'bfloat16 or float32' if dtype == 'float16' else 'float32, scaled'}"
        )
    return StoredRows(stored), (FLAG_NONFINITE * ~np.isfinite(largest) + FLAG_ZERO * (kept == 0)).astype(np.uint32)


def flags_of(stored: StoredRows, dtype: str) -> np.ndarray:
    """The flags (n,) uint32 that follow from the numbers of `stored` rows."""
    if stored.scales is not None:  # a row is zeros or NaN just where its scale is
        of_scales: np.ndarray = FLAG_NONFINITE * np.isnan(stored.scales) + FLAG_ZERO * (stored.scales == 0)
        return of_scales.astype(np.uint32)
    bits = stored.numbers.view(f"<u{stored.numbers.itemsize}")
    infinity = np.array([np.inf], "<f4").view("<u4") if dtype != "float16" else np.array([np.inf], "<f2").view("<u2")
    if dtype == "bfloat16":
        infinity >>= 16
    largest = (bits & bits.dtype.type(np.iinfo(bits.dtype).max >> 1)).max(axis=1)  # without the sign
    flags: np.ndarray = FLAG_NONFINITE * (largest >= infinity) + FLAG_ZERO * (largest == 0)
    return flags.astype(np.uint32)


def _round_rows(rows: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Fills `stored` with float32 `rows` as bfloat16; the largest magnitude of each row, NaN if any is."""
    if rows.strides[1] != 4 or rows.strides[0] % 4 or rows.strides[0] < 4 * rows.shape[1] or not rows.flags.aligned:
        rows = np.ascontiguousarray(rows)
    largest = np.empty(len(rows), "<u4")
    round_rows(
        rows=rows.ctypes.data,
        n=rows.shape[0],
        cols=rows.shape[1],
        stride=rows.strides[0] // 4,
        out=stored.ctypes.data,
        largest=largest.ctypes.data,
    )
    return largest.view("<f4")


def _store_rows(rows: np.ndarray, dtype: str, stored: np.ndarray) -> np.ndarray:
    """As `_round_rows`, for any dtypes."""
    largest = np.empty(len(rows), rows.dtype)
    step = max(1, _ENCODE_BYTES // (4 * rows.shape[1]))  # temporaries stay in cache
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            largest[part] = _largest(rows[part])
            _encode(np.ascontiguousarray(rows[part], dtype="<f4"), dtype, stored[part])
    return largest


def decode_rows(stored: StoredRows, dtype: str, *, seed: int = 0) -> np.ndarray:
    """`stored` rows as float32; for float32 the array itself, which may be a read-only view of the file."""
    if ROW_DTYPES[dtype].quantised:
        rows: np.ndarray = dequantise_rows(stored.numbers, stored.scales, bits=ROW_DTYPES[dtype].bits, seed=seed)
        return rows
    return widen(stored.numbers, dtype)


def _quantise(rows: np.ndarray, dtype: str, ids: Sequence[object], seed: int) -> tuple[StoredRows, np.ndarray]:
    with np.errstate(over="ignore", under="ignore"):
        single = rows.astype(np.float32, copy=False)
    found = quantise_rows(single, bits=ROW_DTYPES[dtype].bits, seed=seed)
    given = found.norms
    if rows.dtype.itemsize > 4:  # what float32 cannot hold may have become infinite or zero
        given = np.where(np.isfinite(given) & (given > 0), given, _largest(rows).astype(np.float64))
    lost = np.isfinite(given) & (given != 0) & ~(found.scales > 0)
    if lost.any():
        bad = int(np.argmax(lost))
        raise ValueError(
            f"sketches: expected rows within the range of {dtype}, whose norms are 0 or 2**-100 … 2**100, got a norm "
            f"of {float(given[bad]):.3g} for id {ids[bad]!r}; store them as float32, scaled"
        )
    stored = StoredRows(found.codes, found.scales, found.norms)
    return stored, flags_of(stored, dtype)


def _largest(rows: np.ndarray) -> np.ndarray:
    """The largest magnitude in each row; NaN if any number is."""
    largest: np.ndarray = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return largest


def widen(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers of a stored float dtype as float32."""
    if dtype == "float32":
        return numbers.astype(np.float32, copy=False)
    if dtype == "float16":
        return numbers.astype(np.float32)
    wide = numbers.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def _encode(single: np.ndarray, dtype: str, out: np.ndarray) -> None:
    if dtype != "bfloat16":
        out[...] = single  # NumPy rounds float16 to nearest even
        return
    bits = single.view(np.uint32)
    upper = bits >> 16
    rounded = upper & 1
    rounded += 0x7FFF
    rounded += bits  # wraps for some NaNs only, which are replaced below
    rounded >>= 16
    nan = np.isnan(single)
    if nan.any():
        rounded[nan] = upper[nan] | 0x40  # quiet, whichever payload bits the cut takes away
    out[...] = rounded
