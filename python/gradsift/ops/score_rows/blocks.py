"""What a backend of `score_rows` is called with, and fills: a block of stored rows at every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradsift.ops._arrays import Array

# name of a row dtype → (its number in a shard's header, bits of a number)
ROW_FORMATS = {
    "float32": (1, 32),
    "float16": (2, 16),
    "bfloat16": (3, 16),
    "int8": (16, 8),
    "int4": (17, 4),
    "int1": (18, 1),
}
QUANTISED = ("int8", "int4", "int1")
STATUS_NONFINITE, STATUS_ZERO = 2, 4
"""Bits of a row's status, those of a datastore's flags."""


@dataclass
class Part:
    """The block at one checkpoint.

    Attributes
    ----------
    targets : what `prepare_targets` of the backend returned
    rows : (n, …) as stored: P floats, bfloat16 as any type of two bytes, or P · bits / 8 bytes of codes; unit stride
        within a row
    scales : (n,) float32, contiguous, of quantised rows; else None
    weight : the checkpoint's weight
    scores : (n, S) float32, rows contiguous, or None; filled with the scores at this checkpoint alone, NaN where the
        row is not finite
    """

    targets: Any
    rows: Array
    scales: Array | None
    weight: float
    scores: Array | None = None


@dataclass
class BlockScores:
    """What is known of n rows once they are scored; a field that is None is not wanted.

    Attributes
    ----------
    influence : (n,) float32, contiguous; NaN where the row is excluded
    best : (n,) int32, contiguous; column of the highest score, the first of equals
    status : (n,) uint8, contiguous; STATUS_* bits of all checkpoints
    scores : (n, S) float32, rows contiguous
    """

    influence: Array | None = None
    best: Array | None = None
    status: Array | None = None
    scores: Array | None = None
