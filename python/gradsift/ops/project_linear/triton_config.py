"""How `project_linear` is cut into programs on a GPU: by the sizes alone, never by a timing, so that bits are fixed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CHUNK_COLUMNS = 128
# A slice costs its slab once written and once read: few of them where tiles are few, and enough to fill a card with a
# batch of eight or more samples.
MAX_SLICES = 32
MIN_TILES_PER_SLICE = 2


@dataclass(frozen=True)
class Config:
    """One compilation of `sketch_tiles`: a tile of the weight, tokens per step, and how a program is laid out."""

    block_out: int
    block_in: int
    block_tokens: int
    warps: int
    stages: int
    precision: str
    parts: int = 1
    registers: int | None = None

    def options(self) -> dict[str, int]:
        """What Triton's compiler is told besides the constants."""
        limit = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, "num_stages": self.stages, **limit}


def configuration(d_out: int, d_in: int, dtype: str) -> Config:
    """The tile for a weight (d_out, d_in) and operands of `dtype` ("float32", "bfloat16" or "float16").

    A tile is up to 128 × 128; its columns never cross a chunk's. Narrow weights, as LoRA has them, get narrow tiles.
    """
    return _config(_edge(d_out), _edge(d_in), dtype)


def configurations(dtype: str) -> Iterator[Config]:
    """Every `Config` that `configuration` can choose for `dtype`."""
    edges = (16, 32, 64, 128)
    for block_out in edges:
        for block_in in edges:
            yield _config(block_out, block_in, dtype)


def slice_count(d_out: int, d_in: int, proj_dim: int, config: Config) -> tuple[int, int]:
    """(slices, tiles of a slice): depends on no batch, so that a sample's bits do not either."""
    tiles = -(-d_out // config.block_out) * -(-d_in // config.block_in)
    # Slabs together are at most half as long as the weight, where that leaves eight of them.
    most = max(8, min(MAX_SLICES, d_out * d_in // (2 * slab_floats(proj_dim, config))))
    each = max(MIN_TILES_PER_SLICE, -(-tiles // most))
    return -(-tiles // each), each


def slab_floats(proj_dim: int, config: Config) -> int:
    """Length of the slab of one slice: a sketch for each chunk that the rows of a tile span."""
    return groups(proj_dim, config) * proj_dim


def groups(proj_dim: int, config: Config) -> int:
    return max(1, config.block_out * CHUNK_COLUMNS // min(proj_dim, 8192))


def _edge(n: int) -> int:
    return min(128, max(16, 1 << (n - 1).bit_length()))


def _config(block_out: int, block_in: int, dtype: str) -> Config:
    area = block_out * block_in
    if dtype == "float32":
        return Config(block_out, block_in, 32, 8 if area >= 8192 else 4, 3, "tf32x3")
    return Config(block_out, block_in, 64, 8 if area >= 8192 else 4, 3, "ieee")
