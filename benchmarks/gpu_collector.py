"""Collecting against the plain batched forward and backward, SmolLM2-135M's shape with random weights and LoRA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

import gradsift as gs
from gpu_timing import Case
from gradsift.collector import GradientCollector
from language_model import load_model, moments_of, with_lora

LENGTH = 512


def cases(quick: bool) -> Iterator[Case]:
    """Batches without padding; half of the tokens are labels. No floor: both sides are the model's own kernels."""
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float32):
        for rank in (128,) if quick else (8, 128):
            for batch in (16,) if quick else (1, 16, 64):
                yield _case(dtype, rank, batch)


def _case(dtype: torch.dtype, rank: int, n_samples: int) -> Case:
    model = with_lora(load_model(None, dtype), rank)
    moments = moments_of(model)
    model = model.cuda()
    gamma = gs.Gamma.adam(step=100)
    collector = GradientCollector(model, gs.ProjectionSpec(proj_dim=8192), gamma=gamma, moments=moments)
    operands = [_batch(n_samples, seed) for seed in range(3)]
    there = [{name: tensor.cuda() for name, tensor in batch.items()} for batch in operands]
    collector.collect(operands[0])  # tries modules out
    kind = str(dtype).removeprefix("torch.")
    return Case(
        "collector",
        f"LoRA r = {rank}, {n_samples} × {LENGTH} tokens, {kind}, adam",
        0,
        0,
        kind,
        {
            "gradsift": lambda i: collector.start(operands[i]),
            "forward + backward": lambda i: _plain(model, there[i], labels_only=False),
            "the same, logits of labels only": lambda i: _plain(model, there[i], labels_only=True),
        },
        range(3),
        (n_samples, "sample"),
    )


def _batch(n_samples: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 49152, (n_samples, LENGTH), generator=generator)
    labels = ids.clone()
    labels[:, : LENGTH // 2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _plain(model: Any, batch: dict[str, torch.Tensor], *, labels_only: bool) -> None:
    """Gradients of the adapters, as training forms them."""
    logits_of: Callable[..., Any] = model
    kept = {"logits_to_keep": LENGTH // 2 + 1} if labels_only else {}
    output = logits_of(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **kept)
    logits = output.logits[:, -(LENGTH // 2 + 1) : -1] if labels_only else output.logits[:, :-1]
    labels = batch["labels"][:, LENGTH // 2 :] if labels_only else batch["labels"][:, 1:]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100)
    loss.backward()
    model.zero_grad(set_to_none=True)
