"""Rows in 8, 4 or 1 bit after a randomised Hadamard rotation, and back; the codes are those of the datastore."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradsift.ops import _arrays
from gradsift.ops._arrays import Array
from gradsift.ops._dispatch import implementation
from gradsift.ops._native_args import rows_view

BITS = (8, 4, 1)
MIN_DIM, MAX_DIM = 256, 65536


@dataclass(frozen=True)
class QuantisedRows:
    """What `quantise_rows` returns.

    Attributes
    ----------
    codes : (n, P · bits / 8) uint8
    scales : (n,) float32
        A row is ``scale · D · H · codes``: 0 for a row of zeros, NaN for one that has no codes.
    norms : (n,) float64
        Norms of the rows as they were given; NaN for a row with a NaN or an infinity.
    """

    codes: Array
    scales: Array
    norms: Array


def quantise_rows(
    rows: Array, *, bits: int, seed: int, backend: str = "auto", threads: int | None = None
) -> QuantisedRows:
    """Round each row x to codes q of `bits` bits in a rotated basis, so that ``x ≈ scale · D · H · q``.

    H is the Hadamard matrix and D a diagonal of random signs drawn from `seed`: after ``H · D`` every row looks
    Gaussian, heavy tails or not, and codes that end at 4.5 (8 bits) or 2.7 (4 bits) of its standard deviations lose
    little. One bit keeps the signs. docs/datastore-format.md has every step.

    Parameters
    ----------
    rows : array, shape (n, P), float32
        P a power of two, 256 … 65,536. In CPU memory or on a CUDA device.
    bits : {8, 4, 1}
    seed : int
        0 … 2⁶⁴ − 1. Rows to be multiplied with each other take the same.
    backend : {"auto", "cuda", "cpu", "reference"}
        Same bytes from all, on every instruction set.
    threads : int, optional
        Threads of the ``"cpu"`` backend.

    Returns
    -------
    QuantisedRows
        NumPy arrays, or tensors on the device of `rows`. A row with a NaN or an infinity, or whose norm is not 0 and
        outside 2⁻¹⁰⁰ … 2¹⁰⁰, gets zero bits and the scale NaN.

    Raises
    ------
    TypeError, ValueError
        An argument is not what is written above.
    BackendUnavailableError
        The named backend cannot run here.
    """
    _arrays.check_array("rows", rows, shape="(n, P)", ndim=2, dtypes=("float32",))
    n, proj_dim = _arrays.shape_of(rows)
    _check("rows", proj_dim, bits, seed, threads)
    device = _arrays.device_type("rows", rows)
    run = implementation("quantise", backend, device, "quantise_rows")
    found = QuantisedRows(
        _arrays.empty(rows, (n, proj_dim * bits // 8), "uint8"),
        _arrays.empty(rows, (n,), "float32"),
        _arrays.empty(rows, (n,), "float64"),
    )
    view = rows_view(rows) if device == "cpu" else rows
    run(view, bits, seed, found.codes, found.scales, found.norms, threads)
    return found


def dequantise_rows(
    codes: Array,
    scales: Array,
    *,
    bits: int,
    seed: int,
    out: Array | None = None,
    backend: str = "auto",
    threads: int | None = None,
) -> Array:
    """The rows that codes stand for, ``scale · D · H · q``, each number rounded once.

    Parameters
    ----------
    codes : array, shape (n, P · bits / 8), uint8
    scales : array, shape (n,), float32
    bits, seed, backend, threads
        As they were quantised with; see `quantise_rows`.
    out : array, shape (n, P), float32, optional
        Overwritten; rows contiguous.

    Returns
    -------
    array, shape (n, P), float32
        Zeros for a scale of 0, NaN for a scale of NaN.

    Raises
    ------
    TypeError, ValueError, BackendUnavailableError
        As `quantise_rows`.
    """
    _arrays.check_array("codes", codes, shape="(n, P · bits / 8)", ndim=2, dtypes=("uint8",))
    _arrays.check_array("scales", scales, shape="(n,)", ndim=1, dtypes=("float32",))
    _check_bits(bits)
    n, row_bytes = _arrays.shape_of(codes)
    proj_dim = row_bytes * 8 // bits
    _check("codes", proj_dim, bits, seed, threads)
    if _arrays.shape_of(scales) != (n,):
        raise ValueError(f"scales: expected shape ({n},) to match codes, got {_arrays.shape_of(scales)}")
    _arrays.check_device("scales", scales, _arrays.device_of(codes))
    inputs = (codes, scales)
    _arrays.check_outputs(out, None, accumulate=False, batch=n, proj_dim=proj_dim, inputs=inputs)
    device = _arrays.device_type("codes", codes)
    run = implementation("quantise", backend, device, "dequantise_rows")
    result = _arrays.empty(codes, (n, proj_dim), "float32") if out is None else out
    if device != "cpu":
        run(codes, scales, bits, seed, result, threads)
        return result
    numbers = np.ascontiguousarray(_arrays.numpy_view(scales))
    run(rows_view(codes), numbers, bits, seed, _arrays.numpy_view(result), threads)
    return result


def _check(name: str, proj_dim: int, bits: int, seed: int, threads: int | None) -> None:
    if not MIN_DIM <= proj_dim <= MAX_DIM or proj_dim & (proj_dim - 1):
        raise ValueError(
            f"{name}: expected rows of P numbers, a power of two from {MIN_DIM} to {MAX_DIM}, got P = {proj_dim}"
        )
    _check_bits(bits)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed: expected an int, got {_arrays.type_name(seed)}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: expected 0 … 2**64 − 1, got {seed}")
    _arrays.check_threads(threads)


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or bits not in BITS:
        raise ValueError(f"bits: expected one of {BITS}, got {bits!r}")
