"""Named problem sizes of the benchmarks, with where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearCase:
    """One linear layer's weight (d_out, d_in) for `batch` samples of `tokens` tokens."""

    name: str
    d_out: int
    d_in: int
    tokens: int
    batch: int

    @property
    def flop(self) -> int:
        return 2 * self.batch * self.tokens * self.d_out * self.d_in


@dataclass(frozen=True)
class RowsCase:
    """`batch` explicit gradients of one parameter (rows, cols)."""

    name: str
    rows: int
    cols: int
    batch: int

    @property
    def read_bytes(self) -> int:
        return 4 * self.batch * self.rows * self.cols


# SmolLM2-135M has hidden size 576 and MLP size 1536; LESS trains LoRA r = 128, our demo r = 16. 256 tokens is the
# length of the first-run configuration. A case holds 2 to 5 GFLOP, 10 to 60 ms on one core.
LINEAR = (
    LinearCase("lora_a_r16_d576", 16, 576, 256, 32),
    LinearCase("lora_b_r16_d576", 576, 16, 256, 32),
    LinearCase("lora_a_r16_d1536", 16, 1536, 256, 16),
    LinearCase("lora_b_r16_d1536", 1536, 16, 256, 16),
    LinearCase("lora_a_r128_d576", 128, 576, 256, 8),
    LinearCase("lora_b_r128_d576", 576, 128, 256, 8),
    LinearCase("lora_a_r128_d1536", 128, 1536, 256, 4),
    LinearCase("full_576_1536", 576, 1536, 256, 2),
)

ROWS = (
    RowsCase("norm_576", 1, 576, 64),
    RowsCase("lora_r128_d1536", 128, 1536, 16),
    RowsCase("full_576_1536", 576, 1536, 4),
)
