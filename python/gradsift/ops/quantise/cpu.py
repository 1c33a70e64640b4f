"""Quantised rows by the compiled kernels (csrc/quantise)."""

from __future__ import annotations

import numpy as np

from gradsift import _native
from gradsift.ops._native_args import default_threads, stride_of


def quantise_rows(
    rows: np.ndarray,
    bits: int,
    seed: int,
    codes: np.ndarray,
    scales: np.ndarray,
    norms: np.ndarray,
    threads: int | None,
) -> None:
    _native.quantise_rows(
        rows=(rows.ctypes.data, stride_of(rows, 0)),
        n_rows=rows.shape[0],
        proj_dim=rows.shape[1],
        bits=bits,
        seed=seed,
        codes=codes.ctypes.data,
        scales=scales.ctypes.data,
        norms=norms.ctypes.data,
        threads=default_threads() if threads is None else threads,
    )


def dequantise_rows(
    codes: np.ndarray, scales: np.ndarray, bits: int, seed: int, out: np.ndarray, threads: int | None
) -> None:
    _native.dequantise_rows(
        codes=(codes.ctypes.data, stride_of(codes, 0)),
        scales=scales.ctypes.data,
        n_rows=out.shape[0],
        proj_dim=out.shape[1],
        bits=bits,
        seed=seed,
        out=(out.ctypes.data, stride_of(out, 0)),
        threads=default_threads() if threads is None else threads,
    )
