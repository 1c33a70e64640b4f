"""Which parameters of a model are trained, under which one name each, and which module's forward uses them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from gradsift.naming import canonical_name

ModulesFilter: TypeAlias = str | Iterable[str] | Callable[[str], bool]

# These have no forward of their own: what they hold is used by the module above them.
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# These use the parameters of the modules below them without calling those modules.
_WHOLE = (nn.MultiheadAttention,)


@dataclass(frozen=True, eq=False)
class Owner:
    """A module whose forward uses a parameter; `attribute` is the parameter's dotted name below it."""

    module_name: str
    module: nn.Module
    attribute: str


@dataclass(frozen=True, eq=False)
class TrainedParameter:
    """One trained parameter; tied weights are one, with several owners.

    `shape` is that of sketches and moments: the stored shape, or its transpose for ``Conv1D`` (`transposed`).
    """

    name: str
    raw_name: str
    parameter: nn.Parameter
    shape: tuple[int, ...]
    transposed: bool
    owners: tuple[Owner, ...]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DistributedDataParallel and DataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_conv1d(module: nn.Module) -> bool:
    """Whether `module` is transformers' ``Conv1D``, a linear layer whose weight is stored (in, out)."""
    return any(c.__name__ == "Conv1D" and c.__module__ == "transformers.pytorch_utils" for c in type(module).__mro__)


def trained_parameters(model: nn.Module) -> tuple[TrainedParameter, ...]:
    """Parameters with ``requires_grad``, in model order, each once and under a name of its own.

    Adapters trained at once would share a canonical name; they keep the adapter's: ``lora_A[default].weight``.
    """
    model = unwrap(model)
    modules = dict(model.named_modules(remove_duplicate=True))
    owners: dict[int, list[Owner]] = {}
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for module_name, module in modules.items():
        for attribute, parameter in module._parameters.items():
            if parameter is None or not parameter.requires_grad:
                continue
            raw = f"{module_name}.{attribute}" if module_name else attribute
            found.setdefault(id(parameter), (raw, parameter))
            owner = _owner(modules, module_name, attribute)
            known = owners.setdefault(id(parameter), [])
            if all(o.module is not owner.module or o.attribute != owner.attribute for o in known):
                known.append(owner)
    names = _distinct_names([raw for raw, _ in found.values()])
    trained = []
    for name, (key, (raw, parameter)) in zip(names, found.items(), strict=True):
        first = owners[key][0]
        transposed = parameter.ndim == 2 and is_conv1d(first.module) and first.attribute == "weight"
        shape = tuple(int(n) for n in parameter.shape)
        trained.append(
            TrainedParameter(name, raw, parameter, shape[::-1] if transposed else shape, transposed, tuple(owners[key]))
        )
    return tuple(trained)


def as_matrix_order(trained: TrainedParameter, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, stored as the parameter is, in the order of `TrainedParameter.shape`."""
    return tensor.transpose(-1, -2) if trained.transposed else tensor


def choose(trained: Sequence[TrainedParameter], modules: ModulesFilter | None) -> tuple[TrainedParameter, ...]:
    """Those of `trained` whose names `modules` accepts: a regular expression to search for, names, or a function."""
    if modules is None:
        return tuple(trained)
    names = [t.name for t in trained]
    if isinstance(modules, str):
        try:
            pattern = re.compile(modules)
        except re.error as error:
            raise ValueError(f"modules: expected a regular expression, got {modules!r}: {error}") from error
        accepted = {n for n in names if pattern.search(n)}
    elif callable(modules):
        accepted = {n for n in names if modules(n)}
    else:
        accepted = set(modules)
        unknown = sorted(accepted - set(names))
        if unknown:
            raise ValueError(
                f"modules: expected names of trained parameters, got {unknown}; this model trains {_some(names)}"
            )
    if not accepted:
        raise ValueError(
            f"modules: expected to accept at least one trained parameter, got none; this model trains {_some(names)}"
        )
    return tuple(t for t in trained if t.name in accepted)


def _owner(modules: dict[str, nn.Module], module_name: str, attribute: str) -> Owner:
    """The module whose forward uses `attribute` of `module_name`: itself, or the nearest above that computes."""
    path = module_name.split(".") if module_name else []
    depth = len(path)
    while depth and isinstance(modules[".".join(path[:depth])], _CONTAINERS):
        depth -= 1
    for whole in range(depth):
        if isinstance(modules[".".join(path[:whole])], _WHOLE):
            depth = whole
            break
    name = ".".join(path[:depth])
    return Owner(name, modules[name], ".".join([*path[depth:], attribute]))


def _distinct_names(raw_names: Sequence[str]) -> list[str]:
    names = [canonical_name(raw) for raw in raw_names]
    shared = {name for name, count in Counter(names).items() if count > 1}
    names = [_name_with_adapter(raw) if name in shared else name for raw, name in zip(raw_names, names, strict=True)]
    first: dict[str, str] = {}
    for raw, name in zip(raw_names, names, strict=True):
        if name in first:
            raise ValueError(
                f"model: expected parameters with names of their own, got {first[name]!r} and {raw!r}, "
                f"both {name!r}; train one of them at a time or leave one out"
            )
        first[name] = raw
    return names


_ADAPTED = re.compile(
    r"\b(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|modules_to_save|ia3_l)\.([^.]+)"
)


def _name_with_adapter(raw: str) -> str:
    # Brackets, since canonical_name, which every op applies, takes away what follows a dot.
    return canonical_name(_ADAPTED.sub(r"\1[\2]", raw))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
