"""Attention of a packed batch, sample by sample: no padding, and no mask over the tokens of all samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import nn

_NAME = "gradsift_samples_apart"
_OWN = ("sdpa", "eager")
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# What an attention may be called with that the formula below does not have.
_FOREIGN = ("softcap", "s_aux", "position_bias", "head_mask")
_NOT_TOLD = object()

_offsets: ContextVar[np.ndarray] = ContextVar("gradsift_packed_offsets")


class UnsupportedAttentionError(Exception):
    """The model's attention is not the one here; the model's own must run."""


class SamplesApart:
    """Lets a transformers model on the CPU attend within each sample of a packed batch, by torch's own fused kernel.

    The model's own "sdpa" and "eager" form a mask of N × N for N tokens in all, and compute as many products; samples
    apart cost the sum of squares. Flash attention for packed batches, which GPUs have, does so by itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self._configs = _attention_configs(model)
        self._names = [config._attn_implementation for config in self._configs]
        self.supported = bool(self._configs) and _fits(model, self._configs)

    def refuse(self) -> None:
        """Not to be tried again."""
        self.supported = False

    @contextmanager
    def on(self, offsets: np.ndarray) -> Iterator[None]:
        """Sample b of the batch is tokens ``offsets[b]:offsets[b + 1]``."""
        from transformers import AttentionInterface

        AttentionInterface.register(_NAME, _attend)
        token = _offsets.set(offsets)
        try:
            with self._named([_NAME] * len(self._configs)):
                yield
        finally:
            _offsets.reset(token)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The model's own attention, inside `on` or not."""
        with self._named(self._names):
            yield

    @contextmanager
    def _named(self, names: list[str]) -> Iterator[None]:
        before = [config._attn_implementation for config in self._configs]
        try:
            for config, name in zip(self._configs, names, strict=True):
                config._attn_implementation = name
            yield
        finally:
            for config, name in zip(self._configs, before, strict=True):
                config._attn_implementation = name


def packs_by_itself(model: nn.Module) -> bool:
    """Whether the model's own attention takes packed batches at no more than the sum of its samples' cost."""
    return any("flash" in str(config._attn_implementation) for config in _attention_configs(model))


def _attention_configs(model: nn.Module) -> list[Any]:
    """The configurations that modules read their attention's name from, each once."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [c for c in found.values() if getattr(c, "_attn_implementation", None) is not None]


def _fits(model: nn.Module, configs: list[Any]) -> bool:
    if not hasattr(nn.functional, "scaled_dot_product_attention") or any(
        p.device.type != "cpu" for p in model.parameters()
    ):
        return False
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 5):  # no grouped queries in its attention
        return False
    try:
        import transformers
    except ImportError:
        return False
    if not hasattr(transformers, "AttentionInterface"):
        return False
    if not any(getattr(m, "_supports_attention_backend", False) for m in model.modules()):
        return False
    return all(
        c._attn_implementation in _OWN
        and set(getattr(c, "layer_types", None) or ()) <= _LAYER_TYPES
        and getattr(c, "attention_chunk_size", None) is None
        and getattr(c, "attn_logit_softcapping", None) is None
        and not getattr(c, "is_encoder_decoder", False)
        for c in configs
    )


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: Any = _NOT_TOLD,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """(1, N, heads, d) from query (1, heads, N, d) and key, value (1, key heads, N, d), in transformers' protocol."""
    offsets = _offsets.get()
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    foreign = [name for name in _FOREIGN if kwargs.get(name) is not None]
    if attention_mask is not None or not causal or foreign or query.shape[:3:2] != (1, offsets[-1]):
        raise UnsupportedAttentionError
    if key.shape[2] != query.shape[2]:
        raise UnsupportedAttentionError
    if sliding_window is _NOT_TOLD:
        # Some models (Phi-3.5-MoE, Qwen2-MoE) put their window into the mask alone, which is not made here.
        if getattr(getattr(module, "config", None), "sliding_window", None):
            raise UnsupportedAttentionError
        sliding_window = None
    out = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        n = end - begin
        mask = None
        if sliding_window is not None and n > sliding_window:
            at = torch.arange(n, device=query.device)
            mask = (at[:, None] >= at) & (at[:, None] - at < sliding_window)
        part = nn.functional.scaled_dot_product_attention(
            query[:, :, begin:end],
            key[:, :, begin:end],
            value[:, :, begin:end],
            attn_mask=mask,
            is_causal=mask is None and n > 1,
            scale=scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        out.append(part.transpose(1, 2))
    return torch.cat(out, dim=1), None
