"""A batch of language-model samples: checked, laid out, and its loss per sample."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from gradsift.collector.layout import Layout
from gradsift.collector.transfer import to_device
from gradsift.collector.uses import sum_segments

IGNORED = -100
# MKL multiplies up to three rows by a path of its own that adds up the vocabulary one by one: gradients of the hidden
# states are then 1.5e-4 off instead of 1e-6 (49,152 entries, Zen 4).
LEAST_ROWS = 8
_PADDED = frozenset({"input_ids", "attention_mask", "labels"})
_PACKED = frozenset({"input_ids", "position_ids", "labels", "cu_seqlens"})


@dataclass(frozen=True)
class LanguageBatch:
    """What a causal language model is called with, and where its labels are.

    Attributes
    ----------
    inputs : dict
        Keyword arguments of the model's forward, without labels.
    layout, label_layout : Layout
        Samples of all tokens, and of the tokens that predict a label (what the output layer sees).
    predicting : (M,) int64 tensor
        Flat positions of the tokens that predict a label, by sample. Where there are fewer than `LEAST_ROWS`, the last
        is repeated; its repeats belong to its sample, enter no loss and have no gradient.
    targets : int64 tensor, one for each label
    counts : (B,) int64 tensor, beside `targets`
    tokens : (B,) int64
        Labels of each sample, both.
    largest_id : int
        The largest of `targets`, -1 if there are none.
    """

    inputs: dict[str, Any]
    layout: Layout
    label_layout: Layout
    predicting: torch.Tensor
    targets: torch.Tensor
    counts: torch.Tensor
    tokens: np.ndarray
    largest_id: int

    @property
    def n_samples(self) -> int:
        return self.layout.n_samples

    def alone(self, b: int) -> LanguageBatch:
        """Sample b of a packed batch as a batch of its own."""
        span = slice(int(self.layout.offsets[b]), int(self.layout.offsets[b + 1]))
        labels = slice(int(self.label_layout.offsets[b]), int(self.label_layout.offsets[b + 1]))
        inputs = {k: v[:, span] if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()}
        tokens = self.tokens[b : b + 1]
        return LanguageBatch(
            inputs,
            _packed(np.array([0, span.stop - span.start])),
            _packed(np.array([0, *tokens])),
            self.predicting[labels] - span.start,
            self.targets[labels],
            self.counts[b : b + 1],
            tokens,
            self.largest_id,
        )

    def to(self, device: torch.device) -> LanguageBatch:
        """The same with its tensors on `device`, without waiting for it."""
        if device.type == "cpu":
            return self
        keep = self.layout.keep
        return replace(
            self,
            inputs={k: to_device(v, device) if isinstance(v, torch.Tensor) else v for k, v in self.inputs.items()},
            layout=replace(self.layout, keep=None if keep is None else to_device(keep, device)),
            predicting=to_device(self.predicting, device),
            targets=to_device(self.targets, device),
            counts=to_device(self.counts, device),
        )


def read_batch(batch: object, model: nn.Module, device: torch.device) -> LanguageBatch:
    """`batch` as the model on `device` takes it; every wrong key, shape, dtype and device is refused by name.

    It is read on the CPU: tensors that lie on the device are copied back first, which waits for it.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"batch: expected a mapping of tensors, got {type(batch).__name__}")
    keys = set(batch)
    wanted = _PACKED if "cu_seqlens" in keys else _PADDED
    if keys != wanted:
        missing, extra = sorted(wanted - keys), sorted(map(str, keys - wanted))
        raise ValueError(
            f"batch: expected the keys {sorted(wanted)}, got "
            + " and ".join([f"no {missing}"] * bool(missing) + [f"also {extra}"] * bool(extra))
            + "; a model with other inputs needs loss_fn="
        )
    ids = _integers("input_ids", batch["input_ids"], None, device)
    labels = _integers("labels", batch["labels"], ids.shape, device)
    kept = labels[labels != IGNORED]
    if kept.numel() and int(kept.min()) < 0:
        raise ValueError(f"batch['labels']: expected token ids or {IGNORED}, got {int(kept.min())}")
    accepted = inspect.signature(_innermost(model).forward).parameters
    inputs: dict[str, Any] = {"input_ids": ids}
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    if wanted is _PACKED:
        return _read_packed(batch, inputs, labels, "position_ids" in accepted, device).to(device)
    mask = _integers("attention_mask", batch["attention_mask"], ids.shape, device).to(torch.bool)
    return _read_padded(inputs, labels, mask, "position_ids" in accepted).to(device)


def _read_padded(
    inputs: dict[str, Any], labels: torch.Tensor, mask: torch.Tensor, takes_positions: bool
) -> LanguageBatch:
    B, T = labels.shape
    runs = (mask[:, 1:] & ~mask[:, :-1]).sum(1) + mask[:, 0]
    if bool((runs > 1).any()):
        raise ValueError("batch['attention_mask']: expected the ones of each row side by side, got a hole in them")
    if bool(((labels != IGNORED) & ~mask).any()):
        raise ValueError(f"batch['labels']: expected {IGNORED} wherever attention_mask is 0, got a label there")
    inputs["attention_mask"] = mask.to(torch.int64)
    if takes_positions:
        # Counted from the sample's own first token: left padding must not move it.
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    lengths = mask.sum(1).numpy()
    keep = None if bool(mask.all()) else mask.reshape(-1).nonzero()[:, 0]
    predicts = torch.zeros_like(mask)
    predicts[:, :-1] = mask[:, :-1] & mask[:, 1:] & (labels[:, 1:] != IGNORED)
    layout = Layout((B, T), _offsets(lengths), keep)
    return _with_labels(inputs, layout, labels, predicts, predicts.sum(1).numpy())


def _read_packed(
    batch: Mapping[str, Any],
    inputs: dict[str, Any],
    labels: torch.Tensor,
    takes_positions: bool,
    device: torch.device,
) -> LanguageBatch:
    if labels.shape[0] != 1:
        raise ValueError(f"batch['input_ids']: expected shape (1, N) with cu_seqlens, got {tuple(labels.shape)}")
    N = labels.shape[1]
    offsets = np.asarray(torch.as_tensor(batch["cu_seqlens"], device="cpu"))
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise ValueError(
            f"batch['cu_seqlens']: expected integers (B + 1,), got {offsets.dtype} of shape {offsets.shape}"
        )
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != N or bool((np.diff(offsets) < 0).any()):
        raise ValueError(f"batch['cu_seqlens']: expected offsets that rise from 0 to {N}, got {offsets.tolist()}")
    lengths = torch.from_numpy(np.diff(offsets))
    starts = torch.from_numpy(offsets[:-1])
    positions = (torch.arange(N, device="cpu") - starts.repeat_interleave(lengths))[None]
    given = _integers("position_ids", batch["position_ids"], labels.shape, device)
    if not torch.equal(given.to(torch.int64), positions):
        raise ValueError("batch['position_ids']: expected 0, 1, 2, … within each sample of cu_seqlens, got others")
    if not takes_positions:
        raise ValueError("batch: expected a padded batch, since this model takes no position_ids, got a packed one")
    # No attention_mask: transformers then reads the borders off the restarting positions.
    inputs["position_ids"] = positions
    sample = torch.arange(len(lengths), device="cpu").repeat_interleave(lengths)
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[0, :-1] = (sample[1:] == sample[:-1]) & (labels[0, 1:] != IGNORED)
    tokens = torch.bincount(sample[predicts[0]], minlength=len(lengths)).numpy()
    return _with_labels(inputs, _packed(offsets), labels, predicts, tokens)


def _with_labels(
    inputs: dict[str, Any], layout: Layout, labels: torch.Tensor, predicts: torch.Tensor, tokens: np.ndarray
) -> LanguageBatch:
    predicting = predicts.reshape(-1).nonzero()[:, 0]
    targets = labels.reshape(-1)[predicting + 1].to(torch.int64)
    counts = torch.from_numpy(tokens.astype(np.int64))
    largest_id = int(targets.max()) if len(targets) else -1
    offsets = _offsets(tokens)
    if 0 < len(predicting) < LEAST_ROWS:
        repeats = LEAST_ROWS - len(predicting)
        predicting = torch.cat([predicting, predicting[-1:].expand(repeats)])
        offsets[int(np.flatnonzero(tokens)[-1]) + 1 :] += repeats
    return LanguageBatch(
        inputs, layout, _packed(offsets), predicting, targets, counts, tokens.astype(np.int64), largest_id
    )


def sample_losses(logits: torch.Tensor, batch: LanguageBatch) -> torch.Tensor:
    """Mean cross-entropy over each sample's own labels, (B,) float32; 0 where a sample has none.

    `logits` (1, M, vocabulary) of the predicting tokens, labels first; computed in float32 as transformers does.
    """
    labelled = logits[0, : len(batch.targets)].float()
    each = nn.functional.cross_entropy(labelled, batch.targets.to(logits.device), reduction="none")
    counts = batch.counts.to(each.device)
    return sum_segments(each, counts) / counts.clamp(min=1)


def _innermost(model: nn.Module) -> nn.Module:
    """The bare model whose forward says which arguments there are; PEFT's takes any."""
    get_base = getattr(model, "get_base_model", None)
    base = get_base() if callable(get_base) else model
    return base if isinstance(base, nn.Module) else model


def _integers(name: str, value: object, shape: tuple[int, ...] | None, device: torch.device) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"batch[{name!r}]: expected a torch tensor, got {type(value).__name__}")
    want = "(B, T)" if shape is None else str(tuple(shape))
    if value.ndim != 2 or (shape is not None and value.shape != shape) or 0 in value.shape:
        raise ValueError(f"batch[{name!r}]: expected shape {want}, got {tuple(value.shape)}")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"batch[{name!r}]: expected integers, got {value.dtype}")
    if value.device.type != "cpu" and value.device != device:
        raise ValueError(
            f"batch[{name!r}]: expected a tensor on the CPU or on {device} like the model, got {value.device}; move it"
        )
    return value.cpu()


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _packed(offsets: np.ndarray) -> Layout:
    return Layout((1, int(offsets[-1])), offsets.astype(np.int64), packed=True)
