"""What the collector is measured on: a language model with LoRA, batches of real lengths, and moments."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradsift as gs
from gradsift.collector import Moments
from gradsift.data import EncodedSample, batches_by_length, collate

HERE = Path(__file__).resolve().parent
LENGTHS = HERE / "lengths.json"
MAX_LENGTH = 512
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")


def load_model(path: str | None, dtype: torch.dtype) -> Any:
    """The model at `path`, or random weights in the shape of SmolLM2-135M; frozen, in evaluation mode."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if path is None:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=49152,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config).to(dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.requires_grad_(False).eval()


def with_lora(model: Any, rank: int) -> Any:
    """q, k, v, o with an adapter in the model's dtype whose B is not zero, as after a warm-up."""
    import peft

    torch.manual_seed(1)
    settings = peft.LoraConfig(
        r=rank, lora_alpha=4 * rank, lora_dropout=0.0, target_modules=list(LORA_MODULES), task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(model, settings, autocast_adapter_dtype=False).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    return adapted


def moments_of(model: Any) -> Moments:
    """Adam's state of every trained parameter, of sizes that training leaves, made up and seeded."""
    generator = torch.Generator().manual_seed(2)
    entries = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            first = torch.empty(parameter.shape).normal_(std=1e-4, generator=generator)
            second = torch.empty(parameter.shape).normal_(std=1e-4, generator=generator).square_().add_(1e-12)
            entries[gs.canonical_name(name)] = first, second
    return Moments(entries, betas=(0.9, 0.999), eps=1e-8, step=100)


def encode(data: str, model: str) -> Any:
    """The samples of a chat file or folder, by the model's own tokenizer and template."""
    from transformers import AutoTokenizer

    from gradsift.data import encode_samples, read_samples

    return encode_samples(read_samples(data), AutoTokenizer.from_pretrained(model), max_length=MAX_LENGTH)


def samples(count: int, data: str | None, model: str | None) -> list[EncodedSample]:
    """`count` samples: every n-th of `data`, or made-up tokens of recorded lengths, labels at the end of each."""
    if data is not None:
        if model is None:
            raise ValueError("--data: expected --model as well, whose tokenizer reads it, got none")
        encoded = [sample for sample in encode(data, model) if sample.label_tokens]
        return [encoded[int(i)] for i in np.linspace(0, len(encoded) - 1, count)]
    pairs = json.loads(LENGTHS.read_text(encoding="utf-8"))["tokens_and_labels"]
    chosen = [pairs[i % len(pairs)] for i in range(count)]
    rng = np.random.default_rng(3)
    made = []
    for i, (tokens, labels) in enumerate(chosen):
        ids = rng.integers(1000, 40000, tokens).astype(np.int32)
        marks = np.where(np.arange(tokens) < tokens - labels, -100, ids).astype(np.int32)
        made.append(EncodedSample(str(i), ids, marks, False, int(labels)))
    return made


@dataclass(frozen=True)
class Batches:
    """The same samples alone, padded in order of length, and packed without padding."""

    alone: list[dict[str, torch.Tensor]]
    padded: list[dict[str, torch.Tensor]]
    packed: list[dict[str, torch.Tensor]]
    tokens: int
    label_tokens: int
    padding: float

    @classmethod
    def of(cls, chosen: list[EncodedSample], max_tokens: int) -> Batches:
        groups = batches_by_length([len(s) for s in chosen], max_tokens)
        padded = [collate([chosen[i] for i in group], pad_id=0) for group in groups]
        tokens = sum(map(len, chosen))
        # As many tokens in a packed batch as padding leaves room for in a padded one.
        count = min(len(chosen), max(1, math.ceil(tokens / max_tokens)))
        packs = np.array_split(np.argsort([-len(s) for s in chosen], kind="stable"), count)
        return cls(
            alone=[collate([s], pad_id=0) for s in chosen],
            padded=padded,
            packed=[collate([chosen[i] for i in pack], pad_id=0, layout="packed") for pack in packs],
            tokens=tokens,
            label_tokens=sum(s.label_tokens for s in chosen),
            padding=sum(b["input_ids"].numel() for b in padded) / tokens,
        )


def record_lengths(data: str, model: str, count: int = 512) -> None:
    """Writes `LENGTHS` from real data: numbers only, no text."""
    encoded = [s for s in encode(data, model) if s.label_tokens]
    chosen = np.random.default_rng(0).choice(len(encoded), count, replace=False)
    pairs = [[len(encoded[i]), encoded[i].label_tokens] for i in chosen]
    note = f"{count} of {len(encoded)} samples drawn at random: tokens (at most {MAX_LENGTH}) and label tokens of each"
    LENGTHS.write_text(json.dumps({"note": note, "tokens_and_labels": pairs}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import sys

    record_lengths(*sys.argv[1:])
