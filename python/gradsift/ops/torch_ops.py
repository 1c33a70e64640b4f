"""`project_linear` and `project_rows` as torch operators, for graphs that ``torch.compile`` captures.

Importing this module registers ``torch.ops.gradsift.project_linear`` and ``.project_rows``. They take the projection
and Γ as text, since an operator's arguments are tensors, numbers and strings; `spec_text` and `gamma_text` write it,
outside of the compiled function. Both return a new (B, P) float32 tensor on
the device of their operands and are not differentiable.
Eager code calls `gradsift.ops`, which has the full contract.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from gradsift import ops
from gradsift.specs import Gamma, ProjectionSpec, canonical_json

_torch_library: Any = torch.library  # only partly typed
_library = _torch_library.Library("gradsift", "DEF")
_library.define(
    'project_linear(Tensor activations, Tensor output_grads, str spec, str param, *, str gamma=\'{"kind":"sgd"}\', '
    "Tensor? cu_seqlens=None, Tensor? exp_avg=None, Tensor? exp_avg_sq=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    'project_rows(Tensor grads, str spec, str param, *, str gamma=\'{"kind":"sgd"}\', int[]? shape=None, '
    "Tensor? row_ids=None, Tensor? cu_seqlens=None, Tensor? exp_avg=None, Tensor? exp_avg_sq=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def spec_text(spec: ProjectionSpec) -> str:
    """`spec` as the operators take it."""
    return canonical_json(spec.to_dict())


def gamma_text(gamma: Gamma) -> str:
    """`gamma` as the operators take it."""
    return canonical_json(gamma.to_dict())


def _spec(text: str) -> ProjectionSpec:
    return ProjectionSpec.from_dict(json.loads(text))


def _gamma(text: str) -> Gamma:
    return Gamma.from_dict(json.loads(text))


def _moments(exp_avg: Tensor | None, exp_avg_sq: Tensor | None) -> tuple[Tensor, Tensor] | None:
    if exp_avg is None and exp_avg_sq is None:
        return None
    if exp_avg is None or exp_avg_sq is None:
        raise ValueError("exp_avg, exp_avg_sq: expected both or neither, got one")
    return exp_avg, exp_avg_sq


def _project_linear(
    activations: Tensor,
    output_grads: Tensor,
    spec: str,
    param: str,
    *,
    gamma: str = '{"kind":"sgd"}',
    cu_seqlens: Tensor | None = None,
    exp_avg: Tensor | None = None,
    exp_avg_sq: Tensor | None = None,
) -> Tensor:
    sketches: Tensor = ops.project_linear(
        activations,
        output_grads,
        _spec(spec),
        param=param,
        cu_seqlens=cu_seqlens,
        gamma=_gamma(gamma),
        moments=_moments(exp_avg, exp_avg_sq),
    )
    return sketches


def _project_rows(
    grads: Tensor,
    spec: str,
    param: str,
    *,
    gamma: str = '{"kind":"sgd"}',
    shape: list[int] | None = None,
    row_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    exp_avg: Tensor | None = None,
    exp_avg_sq: Tensor | None = None,
) -> Tensor:
    sketches: Tensor = ops.project_rows(
        grads,
        _spec(spec),
        param=param,
        gamma=_gamma(gamma),
        moments=_moments(exp_avg, exp_avg_sq),
        shape=None if shape is None else tuple(shape),
        row_ids=row_ids,
        cu_seqlens=cu_seqlens,
    )
    return sketches


def _empty_sketches(batched: Tensor, cu_seqlens: Tensor | None, spec: str) -> Tensor:
    batch = batched.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return batched.new_empty((batch, _spec(spec).proj_dim), dtype=torch.float32)


def _fake_project_linear(
    activations: Tensor,
    output_grads: Tensor,
    spec: str,
    param: str,
    *,
    gamma: str = '{"kind":"sgd"}',
    cu_seqlens: Tensor | None = None,
    exp_avg: Tensor | None = None,
    exp_avg_sq: Tensor | None = None,
) -> Tensor:
    return _empty_sketches(activations, cu_seqlens, spec)


def _fake_project_rows(
    grads: Tensor,
    spec: str,
    param: str,
    *,
    gamma: str = '{"kind":"sgd"}',
    shape: list[int] | None = None,
    row_ids: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    exp_avg: Tensor | None = None,
    exp_avg_sq: Tensor | None = None,
) -> Tensor:
    return _empty_sketches(grads, cu_seqlens, spec)


for _device in ("CPU", "CUDA"):
    _library.impl("project_linear", _project_linear, _device)
    _library.impl("project_rows", _project_rows, _device)
_torch_library.register_fake("gradsift::project_linear", _fake_project_linear, lib=_library)
_torch_library.register_fake("gradsift::project_rows", _fake_project_rows, lib=_library)
