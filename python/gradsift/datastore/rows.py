"""Rows as they are stored: float32, float16 or bfloat16, little-endian; bfloat16 travels as uint16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradsift._native import round_rows
from gradsift.datastore.format import ROW_DTYPES
from gradsift.datastore.table import FLAG_NONFINITE, FLAG_ZERO

_FLOAT16_MIN_NORMAL = np.float32(2.0**-14)
_ENCODE_BYTES = 1 << 22


def encode_rows(rows: np.ndarray, dtype: str, ids: Sequence[object]) -> tuple[np.ndarray, np.ndarray]:
    """`rows` (n, P) of any floating dtype as stored, a copy, rounded to nearest even; and their flags (n,) uint32.

    NaN and Inf are kept and flagged. A finite row that would overflow, or a non-zero one that would vanish or fall
    below float16's normal range altogether, raises ValueError with its id: stored, it would be another row.
    """
    stored = np.empty(rows.shape, ROW_DTYPES[dtype][1])
    if dtype == "bfloat16" and rows.dtype == "<f4":
        largest = _round_rows(rows, stored)
    else:
        largest = _store_rows(rows, dtype, stored)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # Rounding keeps order, so the largest magnitude stored is the largest magnitude, rounded.
        kept_bits = np.empty(largest.shape, stored.dtype)
        _encode(largest.astype("<f4"), dtype, kept_bits)
    kept = decode_rows(kept_bits, dtype)
    lost = np.isfinite(largest) & ~np.isfinite(kept)
    lost |= (largest > 0) & ((kept < _FLOAT16_MIN_NORMAL) if dtype == "float16" else (kept == 0))
    if lost.any():
        bad = int(np.argmax(lost))
        raise ValueError(
            f"sketches: expected rows within the range of {dtype}, got a largest magnitude of "
            f"{float(largest[bad]):.3g} for id {ids[bad]!r}; store them as "
            f"{'bfloat16 or float32' if dtype == 'float16' else 'float32, scaled'}"
        )
    return stored, (FLAG_NONFINITE * ~np.isfinite(largest) + FLAG_ZERO * (kept == 0)).astype(np.uint32)


def flags_of(stored: np.ndarray, dtype: str) -> np.ndarray:
    """The flags (n,) uint32 that follow from the numbers of `stored` rows."""
    bits = stored.view(f"<u{stored.dtype.itemsize}")
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
            largest[part] = np.maximum(rows[part].max(axis=1), -rows[part].min(axis=1))  # NaN if any is
            _encode(np.ascontiguousarray(rows[part], dtype="<f4"), dtype, stored[part])
    return largest


def decode_rows(stored: np.ndarray, dtype: str) -> np.ndarray:
    """`stored` rows as float32; for float32 the array itself, which may be a read-only view of the file."""
    if dtype == "float32":
        return stored.astype(np.float32, copy=False)
    if dtype == "float16":
        return stored.astype(np.float32)
    wide = stored.astype(np.uint32)
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
