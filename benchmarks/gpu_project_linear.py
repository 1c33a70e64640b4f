"""Sketching a linear layer's gradients, against torch.bmm that only forms them and against eager torch doing it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from gpu_timing import Case, copies_needed
from gradsift import Gamma, ProjectionSpec, ops
from gradsift.ops.projection import xor_buckets, xor_signs

TOKENS = 512
ADAM = Gamma.adam(step=100)
# A 7B Llama's weights under LoRA of rank 128 and 8, and one of its own.
LORA = [(128, 4096), (4096, 128), (128, 11008), (11008, 128), (8, 4096), (4096, 8)]


def cases(quick: bool) -> Iterator[Case]:
    """LoRA's matrices and a square one; bfloat16 and float32; batches of 8 to 32; what Adam and the norms cost."""
    for shape in LORA[:2] if quick else LORA:
        yield _case(*shape, 16, torch.bfloat16, ADAM)
    yield _case(4096, 4096, 8, torch.bfloat16, ADAM)
    if quick:
        return
    yield _case(128, 4096, 16, torch.bfloat16, None)
    yield _case(128, 4096, 16, torch.bfloat16, ADAM, norms=False)
    for batch in (8, 32):
        yield _case(128, 4096, batch, torch.bfloat16, ADAM)
    yield _case(128, 4096, 16, torch.float16, ADAM)
    for shape in (LORA[0], LORA[1], (4096, 4096)):
        yield _case(*shape, 8, torch.float32, ADAM)
    for proj_dim in (1024, 65536):
        yield _case(128, 4096, 16, torch.bfloat16, ADAM, proj_dim=proj_dim)


def _case(
    d_out: int,
    d_in: int,
    batch: int,
    dtype: torch.dtype,
    gamma: Gamma | None,
    *,
    norms: bool = True,
    proj_dim: int = 8192,
) -> Case:
    spec, size = ProjectionSpec(proj_dim), torch.finfo(dtype).bits // 8
    moments = None
    if gamma is not None:
        moments = tuple(torch.rand(d_out, d_in, device="cuda") * scale for scale in (1e-3, 1e-4))
    out = torch.empty(batch, proj_dim, device="cuda")
    squares = torch.empty(batch, 2, dtype=torch.float64, device="cuda") if norms else None
    formed = torch.empty(batch, d_out, d_in, dtype=dtype, device="cuda")

    def ours(operands: tuple[torch.Tensor, torch.Tensor]) -> None:
        ops.project_linear(*operands, spec, param="w", gamma=gamma, moments=moments, out=out, norms=squares)

    def only_forms(operands: tuple[torch.Tensor, torch.Tensor]) -> None:
        a, g = operands
        torch.bmm(g.mT, a, out=formed)

    calls: dict[str, Callable[[tuple[torch.Tensor, torch.Tensor]], object]] = {
        "gradsift": ours,
        "torch.bmm, forms G only": only_forms,
    }
    if moments is not None and proj_dim == 8192 and d_out * d_in <= 1 << 20:
        calls["torch: bmm, Adam, index_add_"] = _unfused(spec, moments, formed, out)
    read = batch * TOKENS * (d_in + d_out) * size
    kept = 0 if moments is None else 8 * d_in * d_out
    operands = [
        tuple(
            (torch.randn(batch, TOKENS, n, device="cuda") * scale).to(dtype) for n, scale in ((d_in, 1), (d_out, 0.01))
        )
        for _ in range(copies_needed(read))
    ]
    kind = str(dtype).removeprefix("torch.")
    name = f"{d_out}×{d_in}, T = {TOKENS}, B = {batch}, P = {proj_dim}, {kind}, {gamma.kind if gamma else 'sgd'}"
    return Case(
        "project_linear",
        name if norms else name + ", no norms",
        read + kept + batch * proj_dim * 4,
        2 * batch * TOKENS * d_in * d_out,
        "tf32x3" if dtype == torch.float32 else kind,
        calls,
        operands,
        (batch, "sample"),
    )


def _unfused(
    spec: ProjectionSpec, moments: tuple[torch.Tensor, ...], formed: torch.Tensor, out: torch.Tensor
) -> Callable[[tuple[torch.Tensor, torch.Tensor]], object]:
    """The same in eager torch: G in the operands' dtype, Adam in float32, a scatter with tables made before."""
    d_out, d_in = moments[0].shape
    buckets = torch.from_numpy(xor_buckets(spec, "w", np.arange(d_out), d_in).ravel()).cuda()
    signs = torch.from_numpy(xor_signs(spec, "w", np.arange(d_out), d_in).ravel()).cuda().float()
    beta1, beta2, eps, step = ADAM.beta1, ADAM.beta2, ADAM.eps, ADAM.step
    first, second = 1 - beta1 ** (step + 1), 1 - beta2 ** (step + 1)

    def call(operands: tuple[torch.Tensor, torch.Tensor]) -> None:
        a, g = operands
        G = torch.bmm(g.mT, a, out=formed).float()
        m = torch.add(moments[0] * (beta1 / first), G, alpha=(1 - beta1) / first)
        v = torch.addcmul(moments[1] * (beta2 / second), G, G, value=(1 - beta2) / second)
        update = m.div_(v.sqrt_().add_(eps))
        out.zero_().index_add_(1, buckets, update.flatten(1).mul_(signs))

    return call
