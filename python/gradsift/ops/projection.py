"""The random matrix a ProjectionSpec names, in NumPy and float64: what every backend must equal.

The specification in words is docs/projection-spec.md. `matrix` is the definition, entry by entry; `sketch` gives the
same product without forming the matrix and is what the reference ops call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gradsift.naming import parameter_id
from gradsift.specs import ProjectionSpec

MASK_KEY = 0x58535742  # "XSWB", XORed into the key's high word for masks
RADEMACHER_KEY = 0x52414445  # "RADE", for the dense matrix
GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: separates repeats and blocks of 128 rows
CHUNK_COLUMNS = 128
_LOW = np.uint64(0xFFFFFFFF)
# Entries handled at once by `sketch`: 1 M of them hold about 40 MB of indices, signs and products.
_BLOCK_ENTRIES = 1 << 20


def philox4x32(counter: Sequence[np.ndarray | int], key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 (Salmon et al., SC 2011): four uint32 words a counter, shape (4, *broadcast shape of `counter`).

    `counter` holds the four words, least significant first, integers or arrays that broadcast; `key` two words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3]).astype(np.uint32)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The matrix a parameter of `shape` is taken for: a vector is one row, a convolution (out, in·kh·kw)."""
    shape = tuple(shape)
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def chunk_rows(spec: ProjectionSpec) -> int:
    """CR: the rows of a chunk, which is CR × 128 entries."""
    return min(spec.proj_dim, 8192) // CHUNK_COLUMNS


def xor_signs(spec: ProjectionSpec, param: str, rows: np.ndarray, n_columns: int, repeat: int = 0) -> np.ndarray:
    """±1 of the entries in `rows` (row numbers, (R,)) and columns 0 … n_columns − 1: (R, n_columns) int8."""
    blocks = np.arange(-(-n_columns // CHUNK_COLUMNS))
    key = _key(spec, GOLDEN * repeat)
    words = philox4x32((*_id_words(param), np.asarray(rows)[:, None], blocks[None, :]), key)
    signs = _bits_to_signs(words, axis_last=True).reshape(len(rows), CHUNK_COLUMNS * len(blocks))
    return signs[:, :n_columns]


def xor_masks(
    spec: ProjectionSpec, param: str, chunk_row: np.ndarray, chunk_column: np.ndarray, repeat: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mc, mr, q) of chunks (I, J) = (chunk_row, chunk_column): int64 arrays of their broadcast shape."""
    key = _key(spec, MASK_KEY ^ (GOLDEN * repeat))
    word = philox4x32((*_id_words(param), chunk_row, chunk_column), key)[0].astype(np.int64)
    row_bits = chunk_rows(spec).bit_length() - 1
    mc = word & (CHUNK_COLUMNS - 1)
    mr = (word >> 7) & (chunk_rows(spec) - 1)
    q = (word >> (7 + row_bits)) & (max(spec.proj_dim // 8192, 1) - 1)
    return mc, mr, q


def xor_buckets(spec: ProjectionSpec, param: str, rows: np.ndarray, n_columns: int, repeat: int = 0) -> np.ndarray:
    """The sketch index each entry in `rows` × columns is added to: (R, n_columns) int64."""
    i = np.asarray(rows, dtype=np.int64)[:, None]
    j = np.arange(n_columns)[None, :]
    cr = chunk_rows(spec)
    chunk_row, which = np.unique(i // cr, return_inverse=True)
    masks = xor_masks(spec, param, chunk_row[:, None], np.arange(-(-n_columns // CHUNK_COLUMNS))[None, :], repeat)
    mc, mr, q = (m[which.reshape(-1)[:, None], j // CHUNK_COLUMNS] for m in masks)
    return np.asarray(q * 8192 + ((i % cr) ^ mr) * CHUNK_COLUMNS + ((j % CHUNK_COLUMNS) ^ mc))


def rademacher_signs(spec: ProjectionSpec, param: str, rows: np.ndarray, n_columns: int, block: int) -> np.ndarray:
    """±1 of sketch indices 128·block … 128·block + 127 against the entries: (128, R, n_columns) int8."""
    key = _key(spec, RADEMACHER_KEY ^ (GOLDEN * block))
    words = philox4x32((*_id_words(param), np.asarray(rows)[:, None], np.arange(n_columns)[None, :]), key)
    return _bits_to_signs(words, axis_last=False)


def matrix(spec: ProjectionSpec, param: str, shape: Sequence[int]) -> np.ndarray:
    """R: (P, d_out·d_in) float64 with columns in row-major order of the parameter; the sketch of G is R · vec(G)."""
    d_out, d_in = matrix_shape(shape)
    rows = np.arange(d_out)
    if spec.kind == "rademacher":
        blocks = [rademacher_signs(spec, param, rows, d_in, b) for b in range(spec.proj_dim // 128)]
        return np.concatenate(blocks).reshape(spec.proj_dim, -1) / math.sqrt(spec.proj_dim)
    R = np.zeros((spec.proj_dim, d_out * d_in))
    for repeat in range(spec.nonzeros):
        buckets = xor_buckets(spec, param, rows, d_in, repeat).ravel()
        R[buckets, np.arange(d_out * d_in)] += xor_signs(spec, param, rows, d_in, repeat).ravel()
    return R / math.sqrt(spec.nonzeros)


def sketch(spec: ProjectionSpec, param: str, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """R restricted to `rows` of the parameter, times `values` (B, R, d_in): (B, P) float64.

    All rows in order give the sketch of whole matrices.
    """
    values = np.asarray(values, dtype=np.float64)
    B, _, n_columns = values.shape
    out = np.zeros((B, spec.proj_dim))
    step = max(1, _BLOCK_ENTRIES // max(1, n_columns))
    for start in range(0, len(rows), step):
        part = np.asarray(rows[start : start + step])
        block = values[:, start : start + step].reshape(B, -1)
        if spec.kind == "rademacher":
            _add_rademacher(spec, param, part, n_columns, block, out)
            continue
        for repeat in range(spec.nonzeros):
            buckets = xor_buckets(spec, param, part, n_columns, repeat).ravel()
            signs = xor_signs(spec, param, part, n_columns, repeat).ravel()
            for b in range(B):
                out[b] += np.bincount(buckets, weights=signs * block[b], minlength=spec.proj_dim)
    scale = spec.proj_dim if spec.kind == "rademacher" else spec.nonzeros
    return out / math.sqrt(scale)


def _add_rademacher(
    spec: ProjectionSpec, param: str, rows: np.ndarray, n_columns: int, block: np.ndarray, out: np.ndarray
) -> None:
    for b in range(spec.proj_dim // 128):
        signs = rademacher_signs(spec, param, rows, n_columns, b).reshape(128, -1)
        out[:, 128 * b : 128 * b + 128] += block @ signs.T.astype(np.float64)


def _key(spec: ProjectionSpec, tweak: int) -> tuple[int, int]:
    return spec.seed & 0xFFFFFFFF, (spec.seed >> 32) ^ (tweak & 0xFFFFFFFF)


def _id_words(param: str) -> tuple[int, int]:
    h = parameter_id(param)
    return h & 0xFFFFFFFF, h >> 32


def _bits_to_signs(words: np.ndarray, *, axis_last: bool) -> np.ndarray:
    """(4, …) uint32 to ±1 int8 with an axis of 128, bit b of word b // 32; a set bit is −1."""
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32).reshape(1, 32, *[1] * (words.ndim - 1))) & np.uint32(1)
    signs = (1 - 2 * bits.astype(np.int8)).reshape(128, *words.shape[1:])
    return np.moveaxis(signs, 0, -1) if axis_last else signs
