"""Quantised rows by the CUDA kernels (csrc/quantise/quantise.cu)."""

from __future__ import annotations

from gradsift import _native
from gradsift.ops import _cuda_args
from gradsift.ops._arrays import Array
from gradsift.ops._cuda_args import Memory


def quantise_rows(
    rows: Array, bits: int, seed: int, codes: Array, scales: Array, norms: Array, threads: int | None
) -> None:
    view = Memory.rows(rows)
    scratch = _scratch(rows, *view.shape)
    _native.cuda_quantise_rows(
        place=_cuda_args.place(rows),
        rows=(view.address, view.strides[0]),
        n_rows=view.shape[0],
        proj_dim=view.shape[1],
        bits=bits,
        seed=seed,
        codes=Memory.of(codes).address,
        scales=Memory.of(scales).address,
        norms=Memory.of(norms).address,
        scratch=0 if scratch is None else scratch.address,
    )


def dequantise_rows(codes: Array, scales: Array, bits: int, seed: int, out: Array, threads: int | None) -> None:
    view, numbers, result = Memory.rows(codes), Memory.contiguous(scales), Memory.of(out)
    scratch = _scratch(codes, *result.shape)
    _native.cuda_dequantise_rows(
        place=_cuda_args.place(codes),
        codes=(view.address, view.strides[0]),
        scales=numbers.address,
        n_rows=result.shape[0],
        proj_dim=result.shape[1],
        bits=bits,
        seed=seed,
        out=(result.address, result.strides[0]),
        scratch=0 if scratch is None else scratch.address,
    )


def _scratch(like: Array, n_rows: int, proj_dim: int) -> Memory | None:
    n_bytes = _native.cuda_quantise_scratch(_cuda_args.place(like)[0], n_rows, proj_dim)
    return _cuda_args.scratch(like, n_bytes) if n_bytes else None
