"""Scores by the compiled kernels (csrc/score_rows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradsift import _native
from gradsift.ops._native_args import default_threads, stride_of
from gradsift.ops.score_rows.blocks import ROW_FORMATS, BlockScores, Part


@dataclass(frozen=True)
class PreparedTargets:
    """Packed columns, and the array whose address they keep."""

    native: _native.ScoreTargets
    targets: np.ndarray


def prepare_targets(targets: np.ndarray, dtype: str, seed: int) -> PreparedTargets:
    packed = _native.ScoreTargets(
        targets=(targets.ctypes.data, stride_of(targets, 0)),
        columns=targets.shape[0],
        proj_dim=targets.shape[1],
        format=ROW_FORMATS[dtype][0],
        seed=seed,
    )
    return PreparedTargets(packed, targets)


def score_rows(
    parts: Sequence[Part],
    out: BlockScores,
    *,
    reduce: str,
    excluded: np.ndarray | None,
    hide: int,
    threads: int | None,
) -> None:
    n = parts[0].rows.shape[0]
    _native.score_rows(
        parts=[
            (
                part.targets.native,
                part.rows.ctypes.data,
                part.rows.strides[0],
                _address(part.scales),
                part.weight,
                _matrix(part.scores),
            )
            for part in parts
        ],
        n=n,
        reduce=("max", "mean").index(reduce),
        excluded=_address(excluded),
        hide=hide,
        influence=_address(out.influence),
        best=_address(out.best),
        status=_address(out.status),
        scores=_matrix(out.scores),
        threads=default_threads() if threads is None else threads,
    )


def multiplies_bfloat16() -> bool:
    """Whether the instruction set in force multiplies pairs of bfloat16 (csrc/score_rows/bfloat16_rows_*.cpp)."""
    return _native.isa() == "avx512bf16"


def _address(array: np.ndarray | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


def _matrix(array: np.ndarray | None) -> tuple[int, int]:
    return (0, 0) if array is None else (array.ctypes.data, stride_of(array, 0))
