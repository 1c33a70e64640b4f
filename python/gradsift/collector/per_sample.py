"""The fall-back: a module of any kind run again on one sample's part of its inputs, with autograd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from gradsift.collector.layout import Layout
from gradsift.errors import CollectError

# A run on one sample differs from the batched one by roundings; a module that mixes samples differs by far more.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 5e-2


@dataclass(eq=False)
class Call:
    """One call of a module, to be repeated per sample: what it was called with, less the tensors, and under what.

    `expected` holds copies of the outputs of a module's first call, which every sample's run is compared with.
    """

    module: nn.Module
    leaves: list[Any]
    spec: TreeSpec
    tensors_at: list[int]
    autocast: tuple[str, torch.dtype] | None
    expected: list[torch.Tensor] | None

    @classmethod
    def record(
        cls, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[torch.Tensor] | None
    ) -> tuple[Call, list[torch.Tensor]]:
        """The call without its tensors, and those, detached."""
        leaves, spec = tree_flatten((args, kwargs))
        tensors_at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        tensors = [leaves[i].detach() for i in tensors_at]
        rest = [None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        device = tensors[0].device.type if tensors else "cpu"
        autocast = (device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
        expected = None if outputs is None else [o.detach().clone() for o in outputs]
        return cls(module, rest, spec, tensors_at, autocast, expected), tensors

    def gradients(
        self,
        parameters: Sequence[nn.Parameter],
        inputs: Sequence[torch.Tensor],
        output_grads: Sequence[torch.Tensor | None],
        layout: Layout,
        b: int,
        *,
        where: str,
    ) -> list[torch.Tensor]:
        """Gradients of `parameters` for sample b, float32, shaped as they are; zeros where they are not used."""
        leaves = list(self.leaves)
        for i, tensor in zip(self.tensors_at, inputs, strict=True):
            leaves[i] = layout.sample_of(tensor, b, where=where)
        args, kwargs = tree_unflatten(leaves, self.spec)
        kind, dtype = self.autocast or ("cpu", torch.bfloat16)
        for p in parameters:
            p.requires_grad_(True)
        try:
            with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=self.autocast is not None):
                outputs = float_tensors(self.module(*args, **kwargs))
            if self.expected is not None:
                self._compare(outputs, layout, b, where)
            pairs = [
                (o, layout.sample_of(g, b, where=where))
                for o, g in zip(outputs, output_grads, strict=True)
                if g is not None and o.requires_grad
            ]
            if not pairs:
                return [torch.zeros(p.shape, device=p.device) for p in parameters]
            grads = torch.autograd.grad(
                [o for o, _ in pairs], list(parameters), [g for _, g in pairs], allow_unused=True
            )
        finally:
            for p in parameters:
                p.requires_grad_(False)
        return [
            torch.zeros(p.shape, device=p.device) if g is None else g.float()
            for p, g in zip(parameters, grads, strict=True)
        ]

    def _compare(self, outputs: Sequence[torch.Tensor], layout: Layout, b: int, where: str) -> None:
        assert self.expected is not None
        for got, whole in zip(outputs, self.expected, strict=True):
            want = layout.sample_of(whole, b, where=where)
            if want.shape != got.shape:
                raise CollectError(
                    f"{where}: expected output {tuple(want.shape)} for one sample, got {tuple(got.shape)}; leave the "
                    "module out with modules=, or collect with one sample a batch"
                )
            if not want.isfinite().all():
                continue
            tolerance = _TOLERANCE.get(want.dtype, _COARSE_TOLERANCE)
            error = torch.linalg.vector_norm(got.detach().float() - want.float())
            size = torch.linalg.vector_norm(want.float())
            if error > tolerance * size:
                raise CollectError(
                    f"{where}: expected the same output for a sample alone as in its batch, got a relative difference "
                    f"of {float(error / size):.1e}, so its samples are not independent; leave the module out with "
                    "modules=, or collect with one sample a batch"
                )


def float_tensors(output: Any) -> list[torch.Tensor]:
    """The floating-point tensors in a module's output, in order."""
    return [x for x in tree_flatten(output)[0] if isinstance(x, torch.Tensor) and x.is_floating_point()]


def replace_float_tensors(output: Any, tensors: Sequence[torch.Tensor]) -> Any:
    """`output` with its floating-point tensors replaced, in order."""
    leaves, spec = tree_flatten(output)
    new = iter(tensors)
    leaves = [next(new) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in leaves]
    return tree_unflatten(leaves, spec)
