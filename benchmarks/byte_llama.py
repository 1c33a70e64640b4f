"""Sketches of a small language model made on the spot: a byte-level Llama trained on the standard library's sources.

No download and no files: seconds of training, then Adam's update directions of windows of source text as candidates
and plain gradients of a few windows of each of six packages as targets.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gradsift import ProjectionSpec
from gradsift.collector import GradientCollector
from gradsift.collector.moments import Moments
from gradsift.naming import canonical_name

WINDOW = 96
SUBTASKS = ("asyncio", "email", "unittest", "json", "xml", "ctypes")
EXAMPLES = 10
BATCH = 32


def windows(paths: list[Path], count: int, rng: np.random.Generator) -> torch.Tensor:
    """(count, WINDOW) bytes of the files, cut at random places."""
    text = np.frombuffer(b"\n".join(path.read_bytes() for path in paths), np.uint8)
    starts = rng.integers(0, len(text) - WINDOW, count)
    return torch.from_numpy(text[starts[:, None] + np.arange(WINDOW)].astype(np.int64))


def collect(model: LlamaForCausalLM, gamma: str, moments: Moments | None, ids: torch.Tensor) -> np.ndarray:
    collector = GradientCollector(model, ProjectionSpec(8192), gamma=gamma, moments=moments)
    parts = []
    for at in range(0, len(ids), BATCH):
        part = ids[at : at + BATCH]
        batch = {"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part}
        parts.append(collector.collect(batch).rows)
    return np.concatenate(parts)


def sketches(candidates: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `candidates` windows of any package, (N, 8192), and of targets, (6 · 10, 8192), subtask by subtask."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    library = Path(sysconfig.get_paths()["stdlib"])
    files = {name: sorted((library / name).rglob("*.py")) for name in SUBTASKS}
    others = sorted(library.glob("*.py"))
    pool = [path for paths in files.values() for path in paths[::2]] + others
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.999))
    for _ in range(steps):
        part = windows(pool, BATCH, rng)
        optimizer.zero_grad()
        model(input_ids=part, labels=part).loss.backward()
        optimizer.step()
    state = {
        canonical_name(name): (optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"])
        for name, p in model.named_parameters()
    }
    moments = Moments(state, betas=(0.9, 0.999), eps=1e-8, step=steps)
    model.eval()
    targets = torch.cat([windows(files[name][1::2], EXAMPLES, rng) for name in SUBTASKS])
    return collect(model, "adam", moments, windows(pool, candidates, rng)), collect(model, "sgd", None, targets)
