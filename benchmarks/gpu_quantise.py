"""Quantising and packing rows, and back, against the same rotation by torch: a Hadamard matrix product in two steps."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu_timing import Case, copies_needed
from gradsift import ops


def cases(quick: bool) -> Iterator[Case]:
    """Rows of usual lengths and the longest, to 8, 4 and 1 bits; back from 8."""
    for proj_dim, n in ((8192, 16384),) if quick else ((1024, 65536), (8192, 16384), (65536, 2048)):
        rows = [torch.randn(n, proj_dim, device="cuda") for _ in range(copies_needed(4 * n * proj_dim))]
        operations = n * proj_dim * proj_dim.bit_length()
        for bits in (8,) if quick else (8, 4, 1):
            calls = {"gradsift": lambda x, bits=bits: ops.quantise_rows(x, bits=bits, seed=1)}
            if bits == 8:
                calls["torch"] = _by_torch(proj_dim)
            label = f"{n} × {proj_dim} to {bits} bits"
            n_bytes = n * proj_dim * 4 + n * proj_dim * bits // 8
            yield Case("quantise", label, n_bytes, operations, "float32", calls, rows, (n, "row"))
        found = [ops.quantise_rows(x, bits=8, seed=1) for x in rows]
        back = {"gradsift": lambda q: ops.dequantise_rows(q.codes, q.scales, bits=8, seed=1)}
        label = f"{n} × {proj_dim} back from 8 bits"
        yield Case("quantise", label, n * proj_dim * 5, operations, "float32", back, found, (n, "row"))


def _by_torch(proj_dim: int):
    """Two products with small Hadamard matrices, in float32: right to rounding, not to the bit."""
    low = 1 << (proj_dim.bit_length() - 1) // 2
    small, large = (_hadamard(size) for size in (low, proj_dim // low))
    signs = torch.where(torch.rand(proj_dim, device="cuda") < 0.5, -1.0, 1.0)

    def call(rows: torch.Tensor) -> torch.Tensor:
        norms = rows.norm(dim=1, keepdim=True)
        y = large @ ((rows * signs).view(len(rows), proj_dim // low, low) @ small)
        return (y.flatten(1) * (127 / (4.5 * norms))).clamp_(-127, 127).round_().to(torch.int8)

    return call


def _hadamard(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1, device="cuda")
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
