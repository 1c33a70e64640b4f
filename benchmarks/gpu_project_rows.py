"""Sketching gradients that exist, against the same count-sketch by torch's `index_add_` with tables made beforehand.

And, on gradients as they are in float32, against fast_jl (a dense projection, by LESS's and traker's own kernels) and
sjlt (a sparse one by atomics), where they are installed: to as many numbers, by other matrices, without Γ and norms.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

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

    calls: dict[str, Callable[[torch.Tensor], object]] = {"gradsift": ours}
    if gamma is None and entries <= 1 << 24 and proj_dim == 8192:
        calls["torch index_add_"] = _by_index_add(spec, shape, out)
        if dtype == torch.float32:
            calls |= peers(entries, batch, proj_dim)
    n_bytes = batch * entries * size + (0 if moments is None else 8 * entries) + batch * proj_dim * 4
    operands = [
        torch.randn(batch, *shape, device="cuda").to(dtype) for _ in range(copies_needed(batch * entries * size))
    ]
    name = "×".join(map(str, shape))
    kind = str(dtype).removeprefix("torch.")
    label = f"{name}, B = {batch}, P = {proj_dim}, {kind}, {gamma.kind if gamma else 'sgd'}"
    return Case("project_rows", label, n_bytes, 2 * batch * entries, "float32", calls, operands, (batch, "sample"))


def peers(entries: int, batch: int, proj_dim: int) -> dict[str, Callable[[torch.Tensor], object]]:
    """What is installed of fast_jl and sjlt and runs here, each tried once: both build for a card only, and may not."""
    found: dict[str, Callable[[torch.Tensor], object]] = {}
    for name, make in (("fast_jl", _by_fast_jl), ("sjlt", _by_sjlt)):
        try:
            call = make(importlib.import_module(name), entries, batch, proj_dim)
            call(torch.zeros(batch, entries, device="cuda"))
            torch.cuda.synchronize()
        except (ImportError, RuntimeError) as error:  # a kernel for another card is torch's RuntimeError
            print(f"no {name}: {' '.join(str(error).split())[:200]}")
        else:
            found[name] = call
    return found


def _by_fast_jl(fast_jl: ModuleType, entries: int, batch: int, proj_dim: int) -> Callable[[torch.Tensor], object]:
    """Sixteen rows at a time where there are as many, as traker chooses for an A100; its matrix is not scaled."""
    multiprocessors = torch.cuda.get_device_properties("cuda").multi_processor_count
    project = fast_jl.project_rademacher_16 if batch >= 16 else fast_jl.project_rademacher_8
    return lambda grads: project(grads.flatten(1), proj_dim, 0, multiprocessors)


def _by_sjlt(sjlt: ModuleType, entries: int, batch: int, proj_dim: int) -> Callable[[torch.Tensor], object]:
    """One entry a column of its matrix, as ours has: its fastest."""
    projection = sjlt.SJLTProjection(original_dim=entries, proj_dim=proj_dim, c=1)
    return lambda grads: projection(grads.flatten(1))


def _by_index_add(spec: gs.ProjectionSpec, shape: tuple[int, ...], out: torch.Tensor):
    """Reads 12 bytes of tables an entry beside the gradient, and adds with atomics in no fixed order."""
    rows, cols = matrix_shape(shape)
    buckets = torch.from_numpy(xor_buckets(spec, "w", np.arange(rows), cols).ravel()).cuda()
    signs = torch.from_numpy(xor_signs(spec, "w", np.arange(rows), cols).ravel()).cuda().float()

    def call(grads: torch.Tensor) -> None:
        out.zero_().index_add_(1, buckets, grads.flatten(1) * signs)

    return call
