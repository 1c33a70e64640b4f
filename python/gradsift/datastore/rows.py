"""Rows as they are stored: float32, float16 or bfloat16, little-endian; bfloat16 travels as uint16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    flags = np.zeros(len(rows), np.uint32)
    step = max(1, _ENCODE_BYTES // (4 * rows.shape[1]))  # temporaries stay in cache
    for at in range(0, len(rows), step):
        part = slice(at, at + step)
        given = np.maximum(rows[part].max(axis=1), -rows[part].min(axis=1))  # largest magnitudes; NaN if any is
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            _encode(np.ascontiguousarray(rows[part], dtype="<f4"), dtype, stored[part])
            # Rounding keeps order, so the largest magnitude stored is the largest magnitude, rounded.
            kept_bits = np.empty(given.shape, stored.dtype)
            _encode(given.astype("<f4"), dtype, kept_bits)
        kept = decode_rows(kept_bits, dtype)
        flags[part] = FLAG_NONFINITE * ~np.isfinite(given) + FLAG_ZERO * (kept == 0)
        lost = np.isfinite(given) & ~np.isfinite(kept)
        lost |= (given > 0) & ((kept < _FLOAT16_MIN_NORMAL) if dtype == "float16" else (kept == 0))
        if lost.any():
            bad = at + int(np.argmax(lost))
            raise ValueError(
                f"sketches: expected rows within the range of {dtype}, got a largest magnitude of "
                f"{float(given[bad - at]):.3g} for id {ids[bad]!r}; store them as "
                f"{'bfloat16 or float32' if dtype == 'float16' else 'float32, scaled'}"
            )
    return stored, flags


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
