"""Problem sizes of the kernels' benchmarks, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Widths: hidden size and MLP size of SmolLM2-135M, hidden size of a 7B model. Ranks: the collector's cases, and LESS's
# 128. A LoRA pair has A as (r, d_in) and B as (d_out, r). Tokens: of one sample.
RANKS = (8, 16, 64, 128)
WIDTHS = (576, 1536, 4096)
TOKENS = (64, 256, 1024)
# A packed batch as the collector makes it. At d = 4096 and r >= 64 a call would take over 60 ms, so half of it.
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class LinearCase:
    """One linear layer's weight (d_out, d_in) for `batch` samples of `tokens` tokens."""

    d_out: int
    d_in: int
    tokens: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.d_out}x{self.d_in} T{self.tokens} B{self.batch}"

    @property
    def flop(self) -> int:
        return 2 * self.batch * self.tokens * self.d_out * self.d_in


def linear(tokens: tuple[int, ...] = TOKENS) -> list[LinearCase]:
    """Every rank, width and side, for samples of each of `tokens`."""
    found = []
    for t in tokens:
        for d in WIDTHS:
            for r in RANKS:
                total = BATCH_TOKENS // 2 if d * r >= 4096 * 64 else BATCH_TOKENS
                found += [LinearCase(*shape, t, max(1, total // t)) for shape in ((r, d), (d, r))]
    return found


class LinearProblem:
    """Inputs of a case: activations, output gradients of the size a loss leaves, moments, and room for the sketches."""

    def __init__(self, case: LinearCase, proj_dim: int) -> None:
        rng = np.random.default_rng(0)
        self.case = case
        self.activations = rng.standard_normal((case.batch, case.tokens, case.d_in), dtype=np.float32)
        self.output_grads = 1e-3 * rng.standard_normal((case.batch, case.tokens, case.d_out), dtype=np.float32)
        first = 1e-4 * rng.standard_normal((case.d_out, case.d_in), dtype=np.float32)
        # Second moments over some orders of magnitude, as training leaves them, none of them zero.
        self.moments = (first, np.square(1e-4 * rng.standard_normal(first.shape, dtype=np.float32)) + np.float32(1e-12))
        self.out = np.empty((case.batch, proj_dim), np.float32)
        self.norms = np.empty((case.batch, 2), np.float64)
