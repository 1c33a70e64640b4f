"""Quantised rows in NumPy, step by step as docs/datastore-format.md words them: float32 where it says float32."""

from __future__ import annotations

import numpy as np

from gradsift.ops.projection import philox4x32

ROTATION_KEY = 0x48414441  # "HADA", XORed into the key's high word
CLIP = {8: 4.5, 4: 2.7, 1: 1.0}  # where codes end, in standard deviations of the rotated row
LARGEST_CODE = {8: 127, 4: 7, 1: 1}
NORM_RANGE = (2.0**-100, 2.0**100)  # within it nothing overflows or vanishes
_NORM_LANES = 16


def quantise_rows(
    rows: np.ndarray,
    bits: int,
    seed: int,
    codes: np.ndarray,
    scales: np.ndarray,
    norms: np.ndarray,
    threads: int | None,
) -> None:
    proj_dim = rows.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        norms[:] = _norms(rows)
    norms[~np.isfinite(norms)] = np.nan
    good = (norms >= NORM_RANGE[0]) & (norms <= NORM_RANGE[1])
    codes[:] = 0
    scales[:] = np.where(norms == 0, np.float32(0), np.float32(np.nan))
    step = CLIP[bits] * norms[good]
    scales[good] = (step / (proj_dim * LARGEST_CODE[bits])).astype(np.float32)
    y = rotate(rows[good], seed)
    if bits == 1:
        codes[good] = np.packbits(y < 0, axis=1, bitorder="little")
        return
    per_step = (LARGEST_CODE[bits] / step).astype(np.float32)
    q = np.rint(np.clip(y * per_step[:, None], -LARGEST_CODE[bits], LARGEST_CODE[bits])).astype(np.int8)
    packed = q.view(np.uint8)
    codes[good] = packed if bits == 8 else (packed[:, ::2] & 15) | (packed[:, 1::2] << 4)


def dequantise_rows(
    codes: np.ndarray, scales: np.ndarray, bits: int, seed: int, out: np.ndarray, threads: int | None
) -> None:
    q = unpack(codes, bits).astype(np.float32)
    with np.errstate(over="ignore"):
        np.multiply(_hadamard(q), scales[:, None], out=out)
    out *= rotation_signs(seed, out.shape[1])
    out[scales == 0] = 0.0
    out[np.isnan(scales)] = np.nan


def rotate(rows: np.ndarray, seed: int) -> np.ndarray:
    """``H · D · x`` of every row x: float32 (n, P), √P times as long as x."""
    return _hadamard(rows * rotation_signs(seed, rows.shape[1]))


def rotation_signs(seed: int, proj_dim: int) -> np.ndarray:
    """The diagonal of D: (P,) float32 of ±1."""
    words = philox4x32((0, 0, 0, np.arange(proj_dim // 128)), (seed & 0xFFFFFFFF, (seed >> 32) ^ ROTATION_KEY))
    set_bits = np.unpackbits(words.T.astype("<u4").reshape(-1).view(np.uint8), bitorder="little")
    return np.where(set_bits, np.float32(-1), np.float32(1))


def unpack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packed `codes` as numbers, (n, P) int8."""
    if bits == 8:
        return codes.view(np.int8)
    if bits == 1:
        return 1 - 2 * np.unpackbits(codes, axis=1, bitorder="little").astype(np.int8)
    halves = np.stack([codes << 4, codes & 0xF0], axis=2).reshape(len(codes), 2 * codes.shape[1])
    return halves.view(np.int8) >> 4


def _hadamard(rows: np.ndarray) -> np.ndarray:
    n, proj_dim = rows.shape
    y = rows
    h = 1
    while h < proj_dim:
        pairs = y.reshape(n, proj_dim // (2 * h), 2, h)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        y = np.stack([a + b, a - b], axis=2).reshape(n, proj_dim)
        h *= 2
    return y


def _norms(rows: np.ndarray) -> np.ndarray:
    squares = rows.astype(np.float64) ** 2
    sums = np.zeros((len(rows), _NORM_LANES))
    for at in range(0, rows.shape[1], _NORM_LANES):
        sums += squares[:, at : at + _NORM_LANES]
    while sums.shape[1] > 1:
        sums = sums[:, ::2] + sums[:, 1::2]
    norms: np.ndarray = np.sqrt(sums[:, 0])
    return norms
