"""Encoded samples as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradsift.data.encode import IGNORED, EncodedSample
from gradsift.errors import DependencyMissingError

LAYOUTS = ("padded", "packed")


def collate(samples: Sequence[EncodedSample], *, pad_id: int, layout: str = "padded") -> dict[str, Any]:
    """One batch for the model, all int64 tensors on the CPU.

    Parameters
    ----------
    samples : B encoded samples, at least one
    pad_id : int
        Token that fills the right end of shorter rows; unused where ``layout="packed"``.
    layout : {"padded", "packed"}

    Returns
    -------
    dict
        padded: ``input_ids``, ``attention_mask``, ``labels``, each (B, T) with T the longest sample; labels of
        padding are −100. packed: ``input_ids``, ``position_ids``, ``labels``, each (1, N) with N all tokens, and
        ``cu_seqlens`` (B + 1,), where each sample begins and the last ends. As the first label of a sample is −100,
        no sample predicts the next one's beginning.

    Raises
    ------
    ValueError
        No samples, or another layout.
    DependencyMissingError
        torch is not installed.
    """
    if layout not in LAYOUTS:
        raise ValueError(f'layout: expected "padded" or "packed", got {layout!r}')
    if not samples:
        raise ValueError("samples: expected at least one, got none")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise DependencyMissingError(
            'collate: expected the package torch, got none installed; pip install "gradsift[torch]"'
        ) from error
    arrays = _padded(samples, pad_id) if layout == "padded" else _packed(samples)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def batches_by_length(lengths: Sequence[int] | np.ndarray, max_tokens: int, layout: str = "padded") -> list[np.ndarray]:
    """Positions in groups of like length, the longest first, each at most `max_tokens`.

    Samples of one length keep their order; a sample longer than `max_tokens` is a group of its own.

    Parameters
    ----------
    lengths : (N,) ints of at least 1
    max_tokens : int, at least 1
    layout : {"padded", "packed"}
        A group of n samples costs n times its longest, or the sum of its lengths.

    Returns
    -------
    list of (n,) int64 arrays that together hold 0 … N − 1 once
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if sizes.ndim != 1:
        raise ValueError(f"lengths: expected one dimension, got {sizes.ndim}")
    if sizes.size and sizes.min() < 1:
        raise ValueError(f"lengths: expected at least 1 each, got {sizes.min()}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens: expected at least 1, got {max_tokens}")
    if layout not in LAYOUTS:
        raise ValueError(f'layout: expected "padded" or "packed", got {layout!r}')
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    batches, start = [], 0
    while start < len(order):
        longest = int(sizes[order[start]])
        if layout == "padded":
            count = max(1, max_tokens // longest)
        else:
            before = ends[start] - longest
            count = max(1, int(np.searchsorted(ends, before + max_tokens, side="right")) - start)
        batches.append(order[start : start + count])
        start += count
    return batches


def _padded(samples: Sequence[EncodedSample], pad_id: int) -> dict[str, np.ndarray]:
    shape = (len(samples), max(len(sample) for sample in samples))
    arrays = {
        "input_ids": np.full(shape, pad_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "labels": np.full(shape, IGNORED, dtype=np.int64),
    }
    for row, sample in enumerate(samples):
        n = len(sample)
        arrays["input_ids"][row, :n] = sample.input_ids
        arrays["attention_mask"][row, :n] = 1
        arrays["labels"][row, :n] = sample.labels
    return arrays


def _packed(samples: Sequence[EncodedSample]) -> dict[str, np.ndarray]:
    lengths = [len(sample) for sample in samples]
    return {
        "input_ids": np.concatenate([s.input_ids for s in samples]).astype(np.int64)[None],
        "position_ids": np.concatenate([np.arange(n, dtype=np.int64) for n in lengths])[None],
        "labels": np.concatenate([s.labels for s in samples]).astype(np.int64)[None],
        "cu_seqlens": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    }
