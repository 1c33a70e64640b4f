"""Adam's moments from a training checkpoint, by canonical parameter name."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradsift.collector.parameters import TrainedParameter, as_matrix_order, trained_parameters, unwrap
from gradsift.errors import MomentsError
from gradsift.naming import canonical_name

OPTIMIZER_NAMES = "gradsift_optimizer_names.json"
"""File beside the optimizer state: a list of canonical names in the optimizer's order."""

_FILES = ("optimizer.pt", "optimizer.bin")
# transformers.Trainer.get_decay_parameter_names, and what it was before 4.47: names of parameters without decay.
_NO_DECAY = (
    (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"),
    (r"bias",),
)


class Moments(Mapping[str, tuple[torch.Tensor, torch.Tensor]]):
    """Adam's state at a checkpoint: canonical name → (``exp_avg``, ``exp_avg_sq``).

    Tensors are float32 or bfloat16 on the CPU, shaped as `GradientCollector.parameters` says (``Conv1D`` transposed).

    Attributes
    ----------
    betas : (float, float)
    eps : float
    step : int
        Updates made so far, t.
    """

    def __init__(
        self,
        entries: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
        *,
        betas: tuple[float, float],
        eps: float,
        step: int,
    ) -> None:
        for name, pair in entries.items():
            _check_pair(name, *pair)
        self._entries = dict(entries)
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = float(eps)
        self.step = int(step)
        self._digest: str | None = None

    def __getitem__(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def digest(self) -> str:
        """BLAKE2b-128 over names, shapes, dtypes, values and numbers, 32 hexadecimal digits."""
        if self._digest is None:
            digest = hashlib.blake2b(digest_size=16)
            digest.update(json.dumps([self.betas, self.eps, self.step]).encode())
            for name in sorted(self._entries):
                for tensor in self._entries[name]:
                    digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
                    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self._digest = digest.hexdigest()
        return self._digest

    def __repr__(self) -> str:
        return f"Moments({len(self)} parameters, betas={self.betas}, eps={self.eps}, step={self.step})"


def load_moments(checkpoint_dir: str | Path, model: nn.Module) -> Moments:
    """Adam's moments of the trained parameters of `model`, from the optimizer state in `checkpoint_dir`.

    Reads ``optimizer.pt`` of the transformers Trainer (keyed by index) or ``optimizer.bin`` of FSDP (keyed by name),
    always with ``weights_only=True``. Indices become names by, in this order: ``param_names`` in the state's groups,
    `OPTIMIZER_NAMES` beside it, the Trainer's own split into parameters with and without weight decay (or model order,
    if there is one group). The last is taken only if it fits in every group's size and every shape; an optimizer that
    was given parameters of equal shapes in an order of its own cannot be told from it.

    Parameters
    ----------
    checkpoint_dir : path
        The checkpoint's folder, or the file itself.
    model : torch.nn.Module
        As it was trained: the same adapter, the same parameters with ``requires_grad``.

    Raises
    ------
    MomentsError
        No state is there, it is not Adam's, it is not finite, its numbers differ between groups or parameters, or it
        belongs to another model; the message names the parameters.
    """
    path = _find(Path(checkpoint_dir))
    state, groups = _read(path)
    trained = trained_parameters(unwrap(model))
    if not trained:
        raise ValueError("model: expected parameters with requires_grad, got none; load the adapter as trainable")
    by_key = _match(path, state, groups, trained, unwrap(model))
    betas, eps = _numbers(path, groups)
    entries: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    steps: dict[str, int] = {}
    for t in trained:
        record = state[by_key[t.name]]
        m, v = (as_matrix_order(t, record[k]).contiguous() for k in ("exp_avg", "exp_avg_sq"))
        entries[t.name] = m, v
        steps[t.name] = int(record["step"])
    if len(set(steps.values())) > 1:
        few, many = min(steps, key=lambda n: steps[n]), max(steps, key=lambda n: steps[n])
        raise MomentsError(
            f"{path}: expected one step count for all parameters, got {steps[few]} for {few} and {steps[many]} for "
            f"{many}"
        )
    step = next(iter(steps.values()))
    if step < 1:
        raise MomentsError(f"{path}: expected a step count of at least 1, got {step}; train before you collect")
    return Moments(entries, betas=betas, eps=eps, step=step)


def _find(where: Path) -> Path:
    if where.is_file():
        return where
    found = [where / name for name in _FILES if (where / name).is_file()]
    if not found:
        raise MomentsError(
            f"{where}: expected the optimizer state {' or '.join(_FILES)}, got none; save checkpoints with the "
            "optimizer (save_only_model=False)"
        )
    return found[0]


def _read(path: Path) -> tuple[dict[Any, dict[str, Any]], list[dict[str, Any]]]:
    try:
        record = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MomentsError(f"{path}: expected an optimizer state of plain tensors, got: {reason}") from error
    if not isinstance(record, dict) or not isinstance(record.get("state"), dict):
        raise MomentsError(f"{path}: expected a dict with 'state' and 'param_groups', got {type(record).__name__}")
    groups = record.get("param_groups")
    if not isinstance(groups, list) or not groups:
        raise MomentsError(f"{path}: expected 'param_groups', from which betas and eps are read, got none")
    return record["state"], groups


def _numbers(path: Path, groups: Sequence[Mapping[str, Any]]) -> tuple[tuple[float, float], float]:
    found: set[tuple[float, float, float]] = set()
    for group in groups:
        if "betas" not in group or "eps" not in group:
            raise MomentsError(f"{path}: expected Adam's betas and eps in each group, got the keys {sorted(group)}")
        if group.get("amsgrad"):
            raise MomentsError(f"{path}: expected Adam without amsgrad, got amsgrad=True, for which there is no Γ")
        if group.get("params"):
            beta1, beta2 = group["betas"]
            found.add((float(beta1), float(beta2), float(group["eps"])))
    if len(found) != 1:
        raise MomentsError(f"{path}: expected the same betas and eps in each group, got {sorted(found)}")
    beta1, beta2, eps = found.pop()
    return (beta1, beta2), eps


def _match(
    path: Path,
    state: Mapping[Any, Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    trained: Sequence[TrainedParameter],
    model: nn.Module,
) -> dict[str, Any]:
    """Key in `state` of each trained parameter, by name; raises with names and shapes if any does not fit."""
    keys = [key for group in groups for key in group.get("params", ())]
    names_file = path.parent / OPTIMIZER_NAMES
    saved_names = [name for group in groups for name in group.get("param_names", ())]
    if keys and all(isinstance(key, str) for key in keys):
        return _named(path, "names of the state", keys, keys, state, trained)
    if len(saved_names) == len(keys) and keys:
        return _named(path, "param_names", saved_names, keys, state, trained)
    if names_file.is_file():
        return _named(path, OPTIMIZER_NAMES, _names_in(names_file), keys, state, trained)
    sizes = [len(group.get("params", ())) for group in groups]
    orders = _trainer_orders(model, trained)
    for order in orders:
        flat = [t for part in order for t in part]
        if sizes == [len(part) for part in order] and not _misfits(flat, keys, state):
            return {t.name: key for t, key in zip(flat, keys, strict=True)}
    nearest = next((order for order in orders if sizes == [len(part) for part in order]), orders[0])
    raise _mismatch(path, "the Trainer's order", [t for part in nearest for t in part], keys, state)


def _named(
    path: Path,
    source: str,
    names: Sequence[str],
    keys: Sequence[Any],
    state: Mapping[Any, Mapping[str, Any]],
    trained: Sequence[TrainedParameter],
) -> dict[str, Any]:
    """The same where `names` says which parameter each of `keys` is."""
    if len(names) != len(keys):
        raise MomentsError(f"{path}: expected {len(keys)} names in {source}, as the state has, got {len(names)}")
    own = {t.raw_name: t for t in trained} | {t.name: t for t in trained}
    found: dict[str, tuple[TrainedParameter, Any]] = {}
    unknown = []
    for name, key in zip(names, keys, strict=True):
        t = own.get(name) or own.get(canonical_name(name))
        if t is None:
            unknown.append(name)
        else:
            found[t.name] = t, key
    missing = [t.name for t in trained if t.name not in found]
    if missing or unknown:
        raise MomentsError(
            f"{path}: expected moments of this model's trained parameters, got "
            + "; ".join(
                [f"none for {_listed(missing)}"] * bool(missing)
                + [f"some for {_listed(unknown)}, which it does not train"] * bool(unknown)
            )
            + f" (by {source}); load the checkpoint's own model"
        )
    flat, matched = [t for t, _ in found.values()], [key for _, key in found.values()]
    if _misfits(flat, matched, state):
        raise _mismatch(path, source, flat, matched, state)
    return {name: key for name, (_, key) in found.items()}


def _trainer_orders(model: nn.Module, trained: Sequence[TrainedParameter]) -> list[list[list[TrainedParameter]]]:
    """Orders the Trainer gives: parameters with decay, then those without; and all in model order.

    Each differs from the others in its groups' sizes, or is the same: at most one fits.
    """
    in_layer_norm = {
        f"{name}.{attribute}" if name else attribute
        for name, module in model.named_modules()
        for attribute in module._parameters
        if isinstance(module, nn.LayerNorm)
    }
    orders = [[list(trained)]]
    for patterns in _NO_DECAY:
        without = [
            t for t in trained if t.raw_name in in_layer_norm or any(re.search(p, t.raw_name.lower()) for p in patterns)
        ]
        orders.insert(-1, [[t for t in trained if t not in without], without])
    return orders


def _misfits(
    flat: Sequence[TrainedParameter], keys: Sequence[Any], state: Mapping[Any, Mapping[str, Any]]
) -> list[str]:
    """What is wrong with each pair, in words; shapes as they are stored."""
    wrong = []
    for t, key in zip(flat, keys, strict=True):
        record = state.get(key)
        want = tuple(t.parameter.shape)
        if record is None:
            wrong.append(f"{t.name} {want}: no state (it was never updated)")
        elif not {"exp_avg", "exp_avg_sq", "step"} <= set(record):
            wrong.append(f"{t.name} {want}: {sorted(map(str, record))}, which is not Adam's state")
        else:
            wrong += [
                f"{t.name}: expected {want}, got {k} of shape {tuple(record[k].shape)}"
                for k in ("exp_avg", "exp_avg_sq")
                if tuple(record[k].shape) != want
            ]
    return wrong


def _mismatch(
    path: Path,
    source: str,
    flat: Sequence[TrainedParameter],
    keys: Sequence[Any],
    state: Mapping[Any, Mapping[str, Any]],
) -> MomentsError:
    wrong = [f"{len(flat)} parameters are trained, the state has {len(keys)}"] if len(flat) != len(keys) else []
    pairs = list(zip(flat, keys, strict=False))
    wrong += _misfits([t for t, _ in pairs], [key for _, key in pairs], state)
    wrong += [f"{t.name} {tuple(t.parameter.shape)}: nothing in the state" for t in flat[len(keys) :]]
    if not wrong:
        wrong = [f"groups of {[t.name for t in flat][:3]} … that are split otherwise"]
    return MomentsError(
        f"{path}: expected moments of this model's trained parameters in {source}, got {_listed(wrong, '; ')}; load "
        "the checkpoint's own model"
    )


def _names_in(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MomentsError(f"{path}: expected a JSON list of names, got: {error}") from error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise MomentsError(f"{path}: expected a JSON list of names, got {type(names).__name__}")
    return names


def _check_pair(name: str, m: torch.Tensor, v: torch.Tensor) -> None:
    for what, tensor in (("exp_avg", m), ("exp_avg_sq", v)):
        if tensor.dtype not in (torch.float32, torch.bfloat16):
            raise MomentsError(f"{name}: expected {what} in float32 or bfloat16, got {tensor.dtype}")
        if not tensor.isfinite().all():
            raise MomentsError(f"{name}: expected finite {what}, got {int((~tensor.isfinite()).sum())} NaN or infinite")
    if m.shape != v.shape:
        raise MomentsError(f"{name}: expected exp_avg and exp_avg_sq of one shape, got {m.shape} and {v.shape}")
    if bool((v < 0).any()):
        raise MomentsError(f"{name}: expected exp_avg_sq of at least 0, got {float(v.min())}")


def _listed(items: Sequence[str], separator: str = ", ", most: int = 12) -> str:
    return separator.join(items[:most]) + (f"{separator}and {len(items) - most} more" if len(items) > most else "")
