"""Sketching gradients that exist, against the same count-sketch by torch's `index_add_` with tables made beforehand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import gradsift as gs
from gpu_timing import Case, copies_needed
from gradsift import ops
from gradsift.ops.projection import matrix_shape, xor_buckets, xor_signs


def cases(quick: bool) -> Iterator[Case]:
    """Square and LoRA weights, a whole model's gradients in one vector, an embedding."""
    shapes = [((4096, 4096), 8), ((128, 4096), 16)] if quick else [
        ((4096, 4096), 8), ((4096, 4096), 1), ((128, 4096), 16), ((16, 4096), 16), ((10_000_000,), 16), ((4096,), 16),
    ]  # fmt: skip
    for shape, batch in shapes:
        for dtype in (torch.bfloat16, torch.float32):
            for gamma in (None, gs.Gamma.adam(step=100)):
                yield _case(shape, batch, 8192, dtype, gamma)
    for proj_dim in (1024, 65536):
        yield _case((4096, 4096), 8, proj_dim, torch.bfloat16, None)


def _case(shape: tuple[int, ...], batch: int, proj_dim: int, dtype: torch.dtype, gamma: gs.Gamma | None) -> Case:
    entries = int(np.prod(shape))
    spec = gs.ProjectionSpec(proj_dim)
    size = torch.finfo(dtype).bits // 8
    moments = None
    if gamma is not None:
        moments = tuple(torch.rand(shape, device="cuda") + 0.1 for _ in range(2))
    out = torch.empty(batch, proj_dim, device="cuda")
    norms = torch.empty(batch, 2, dtype=torch.float64, device="cuda")

    def ours(grads: torch.Tensor) -> None:
        ops.project_rows(grads, spec, param="w", gamma=gamma, moments=moments, out=out, norms=norms)

    calls = {"gradsift": ours}
    if gamma is None and entries <= 1 << 24 and proj_dim == 8192:
        calls["torch index_add_"] = _by_index_add(spec, shape, out)
    n_bytes = batch * entries * size + (0 if moments is None else 8 * entries) + batch * proj_dim * 4
    operands = [
        torch.randn(batch, *shape, device="cuda").to(dtype) for _ in range(copies_needed(batch * entries * size))
    ]
    name = "×".join(map(str, shape))
    kind = str(dtype).removeprefix("torch.")
    label = f"{name}, B = {batch}, P = {proj_dim}, {kind}, {gamma.kind if gamma else 'sgd'}"
    return Case("project_rows", label, n_bytes, 2 * batch * entries, "float32", calls, operands, (batch, "sample"))


def _by_index_add(spec: gs.ProjectionSpec, shape: tuple[int, ...], out: torch.Tensor):
    """Reads 12 bytes of tables an entry beside the gradient, and adds with atomics in no fixed order."""
    rows, cols = matrix_shape(shape)
    buckets = torch.from_numpy(xor_buckets(spec, "w", np.arange(rows), cols).ravel()).cuda()
    signs = torch.from_numpy(xor_signs(spec, "w", np.arange(rows), cols).ravel()).cuda().float()

    def call(grads: torch.Tensor) -> None:
        out.zero_().index_add_(1, buckets, grads.flatten(1) * signs)

    return call
