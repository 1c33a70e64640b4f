"""How the gradient of a module's parameters follows from its input and output gradient, and whether it really does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gradsift.collector.parameters import is_conv1d

LINEAR, CONV1D, LAYER_NORM, RMS_NORM, EMBEDDING, OTHER = (
    "linear",
    "conv1d",
    "layer_norm",
    "rms_norm",
    "embedding",
    "per_sample",
)
# A module is trusted to compute what its kind says once its own output agrees on this many tokens.
_PROBED_TOKENS = 16
# Relative error allowed between the two, by the coarsest dtype involved: float32 leaves room for TF32, bfloat16 for
# roundings between the steps. Another formula is off by far more.
_TOLERANCE = {torch.float32: 5e-3, torch.float64: 1e-6}
_COARSE_TOLERANCE = 5e-2


def kind_of(module: nn.Module, attributes: frozenset[str]) -> str:
    """The kind of `module`, given the trained `attributes` it owns; `OTHER` if none fits.

    By type only: `agrees` then tells from numbers whether the type's formula is what the module computes.
    """
    if not attributes <= {"weight", "bias"}:
        return OTHER
    if is_conv1d(module):
        return CONV1D
    if isinstance(module, nn.Linear):
        return LINEAR
    if isinstance(module, nn.Embedding):
        plain = module.max_norm is None and not module.scale_grad_by_freq
        return EMBEDDING if plain else OTHER
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 1:
        return OTHER
    if isinstance(module, nn.LayerNorm):
        return LAYER_NORM
    if type(module).__name__.endswith("RMSNorm") and attributes == {"weight"}:
        return RMS_NORM
    return OTHER


def op_of(kind: str) -> str:
    """The op that sketches weights of modules of `kind`; their biases are always rows."""
    return "project_linear" if kind in (LINEAR, CONV1D) else "project_rows"


def normalised(kind: str, module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x̂ in float32, what a norm of `kind` multiplies with its weight; the gradient of the weight is ``Σ dy · x̂``."""
    x = x.float()
    if kind == LAYER_NORM:
        assert isinstance(module, nn.LayerNorm)
        return nn.functional.layer_norm(x, module.normalized_shape, eps=module.eps)
    eps = next((e for e in (getattr(module, n, None) for n in ("variance_epsilon", "eps", "epsilon")) if e), None)
    if eps is None:
        eps = torch.finfo(x.dtype).eps  # what torch.nn.RMSNorm(eps=None) means
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def agrees(kind: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> bool | None:
    """Whether `module` maps `x` to `y` as its kind says, on a few tokens; None if none of them is finite.

    Guards against subclasses, wrappers and hooks that compute something else under a known type's name.
    """
    width = 1 if kind == EMBEDDING else x.shape[-1]
    x, y = x.reshape(-1, width), y.reshape(-1, y.shape[-1])
    if x.shape[0] != y.shape[0]:
        return False
    at = torch.linspace(0, max(x.shape[0] - 1, 0), min(x.shape[0], _PROBED_TOKENS), device=x.device).long()
    x, y = x[at], y[at]
    finite = y.isfinite().all(-1)
    if kind != EMBEDDING:
        finite &= x.isfinite().all(-1)
    x, y = x[finite], y[finite]
    if not len(y):
        return None
    tolerance = max(_TOLERANCE.get(t.dtype, _COARSE_TOLERANCE) for t in (x, y) if t.is_floating_point())
    return any(_close(want, y.float(), tolerance) for want in _outputs(kind, module, x))


def _outputs(kind: str, module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What a module of `kind` may give for `x`; all forms of one kind have the same gradient formula."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    w = weight.detach().float()
    shift = bias.detach().float() if isinstance(bias, torch.Tensor) else torch.zeros((), device=w.device)
    if kind == LINEAR:
        return [x.float() @ w.T + shift]
    if kind == CONV1D:
        return [x.float() @ w + shift]
    if kind == EMBEDDING:
        return [weight.detach()[x[:, 0]].float()]
    hat = normalised(kind, module, x)
    # Gemma's norms keep weight − 1.
    return [w * hat + shift] + ([(1 + w) * hat] if kind == RMS_NORM else [])


def _close(want: torch.Tensor, got: torch.Tensor, tolerance: float) -> bool:
    error, size = torch.linalg.vector_norm(got - want), torch.linalg.vector_norm(want)
    return bool(error <= tolerance * size)


def saves_input(kind: str, attributes: Mapping[str, object]) -> bool:
    """Whether the gradient of these attributes needs the module's input, or its output gradient alone."""
    return kind in (OTHER, EMBEDDING) or "weight" in attributes
