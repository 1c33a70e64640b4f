"""What a collector is made from, checked: output layer, device, Γ, moments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gradsift.collector.moments import Moments
from gradsift.collector.parameters import TrainedParameter
from gradsift.errors import MomentsError
from gradsift.specs import GAMMA_KINDS, Gamma


def output_layer(model: nn.Module) -> nn.Module | None:
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    return layer if isinstance(layer, nn.Module) else None


def device_of(model: nn.Module) -> torch.device:
    """Where the inputs belong: with the embeddings, or the first parameter."""
    get = getattr(model, "get_input_embeddings", None)
    embeddings = get() if callable(get) else None
    first = next((embeddings if isinstance(embeddings, nn.Module) else model).parameters(), None)
    return next(model.parameters()).device if first is None else first.device


def resolve_gamma(gamma: object, moments: object) -> Gamma:
    if isinstance(gamma, Gamma):
        return gamma
    if not isinstance(gamma, str):
        raise TypeError(f"gamma: expected a Gamma or one of {GAMMA_KINDS}, got {type(gamma).__name__}")
    if gamma not in GAMMA_KINDS:
        raise ValueError(f"gamma: expected a Gamma or one of {GAMMA_KINDS}, got {gamma!r}")
    plain = {"sgd": Gamma.sgd, "sign": Gamma.sign, "less": Gamma.less}
    if gamma in plain:
        return plain[gamma]()
    if not isinstance(moments, Moments):
        raise ValueError(
            f"moments: expected Moments, from which gamma={gamma!r} takes betas, eps and step, got "
            f"{type(moments).__name__}; load_moments reads them, or give a Gamma with its numbers"
        )
    if gamma == "second_moment":
        return Gamma.second_moment(moments.betas[1], moments.eps, moments.step)
    make = Gamma.adam if gamma == "adam" else Gamma.affine
    return make(*moments.betas, moments.eps, moments.step)


def check_moments(trained: tuple[TrainedParameter, ...], moments: object) -> None:
    if not isinstance(moments, Mapping):
        raise ValueError(
            "moments: expected a mapping of canonical names to (exp_avg, exp_avg_sq), got "
            f"{type(moments).__name__}; load_moments reads them from a checkpoint"
        )
    missing = [t.name for t in trained if t.name not in moments]
    if missing:
        raise MomentsError(
            f"moments: expected one entry for each trained parameter, got none for {', '.join(missing)}; load those "
            "of this model's own training, or leave the parameters out with modules="
        )
    wrong = [
        f"{t.name} {tuple(m.shape)} instead of {t.shape}"
        for t in trained
        for m in moments[t.name]
        if tuple(m.shape) != t.shape
    ]
    if wrong:
        raise MomentsError(f"moments: expected the shapes of the trained parameters, got {'; '.join(wrong)}")
