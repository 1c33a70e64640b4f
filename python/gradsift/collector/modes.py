"""A model as collecting needs it, and back again: no dropout, no parameter gradients, checkpointing as configured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def dropout_modules(model: nn.Module) -> int:
    """How many dropout modules would drop something in training mode."""
    return sum(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in model.modules())


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which nothing is dropped.

    transformers checkpoints a layer only while the layer itself is in training mode; such layers stay in it, with
    their own dropout rates at zero, and their submodules do not.
    """
    training = [(m, m.training) for m in model.modules()]
    rates: list[tuple[nn.Module, str, float]] = []
    try:
        for module, _ in training:
            module.training = False
        for module in checkpointed(model):
            module.training = True
            for name, value in vars(module).items():
                if "drop" in name and isinstance(value, (int, float)) and not isinstance(value, bool) and value:
                    rates.append((module, name, value))
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, was in training:
            module.training = was
        for module, name, rate in rates:
            setattr(module, name, rate)


def checkpointed(model: nn.Module) -> list[nn.Module]:
    """Modules for which transformers' gradient checkpointing is switched on."""
    return [m for m in model.modules() if getattr(m, "gradient_checkpointing", False) is True]


def is_reentrant(model: nn.Module) -> bool:
    """Whether any of them recomputes in the old way, which ignores segments whose inputs need no gradient."""
    functions = [getattr(m, "_gradient_checkpointing_func", None) for m in checkpointed(model)]
    return any(f is not None and getattr(f, "keywords", {}).get("use_reentrant") is not False for f in functions)


@contextmanager
def no_checkpointing(model: nn.Module) -> Iterator[None]:
    """Checkpointing without effect, inside `evaluation`."""
    modules = checkpointed(model)
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module in modules:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient, so that autograd forms none; ``.grad`` is left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


@contextmanager
def inputs_require_grad(model: nn.Module) -> Iterator[None]:
    """Embeddings whose output requires a gradient: what reentrant checkpointing of the first layer asks for."""
    embeddings = model.get_input_embeddings()  # type: ignore[operator]

    def require(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and not output.requires_grad:
            output.requires_grad_(True)

    handle = embeddings.register_forward_hook(require)
    try:
        yield
    finally:
        handle.remove()
