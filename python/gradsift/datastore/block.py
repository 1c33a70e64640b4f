"""What reading a store hands out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradsift.datastore.format import ShardHeader
from gradsift.datastore.rows import StoredRows, decode_rows


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one shard.

    Attributes
    ----------
    first : int
        Row number of the first row; row i of the block is row ``first + i`` of the store.
    ids : list of str or of int, n long
    rows : (n, P) float32
        Made when first asked for. Read-only for stores of float32, where it is the file itself.
    packed : (n, …), read-only
        The rows as they are stored: P floats, bfloat16 as uint16; or P · bits / 8 bytes of codes, uint8.
    scales : (n,) float32, norms : (n,) float64; None unless rows are quantised
        Row i is ``scales[i] · D · H · codes``, 0 for zeros and NaN for what is not finite; its norm before it was
        quantised is ``norms[i]`` (docs/datastore-format.md, which has H and D too).
    grad_norm, gamma_norm : (n,) float64; NaN where not known
    tokens : (n,) int64; −1 where not known
    loss : (n,) float32; NaN where not known
    flags : (n,) uint32
    """

    first: int
    ids: list[str] | list[int]
    stored: StoredRows
    header: ShardHeader
    grad_norm: np.ndarray
    gamma_norm: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flags: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def rows(self) -> np.ndarray:
        return decode_rows(self.stored, self.header.dtype, seed=self.header.rotation_seed)

    @property
    def packed(self) -> np.ndarray:
        return self.stored.numbers

    @property
    def scales(self) -> np.ndarray | None:
        return self.stored.scales

    @property
    def norms(self) -> np.ndarray | None:
        return self.stored.norms
