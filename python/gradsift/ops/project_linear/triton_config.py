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

    def constants(self) -> dict[str, int | str]:
        """What the kernel is compiled for, by the names of its arguments."""
        return {
            "BLOCK_OUT": self.block_out,
            "BLOCK_IN": self.block_in,
            "BLOCK_TOKENS": self.block_tokens,
            "PRECISION": self.precision,
        }

    def options(self) -> dict[str, int]:
        """What Triton's compiler is told besides the constants."""
        # Registers are as many as there are: unless told, the assembler spills a few to make room for another program.
        return {"num_warps": self.warps, "num_stages": self.stages, "maxnreg": 255}


def configuration(d_out: int, d_in: int, dtype: str) -> Config:
    """The tile for a weight (d_out, d_in) and operands of `dtype` ("float32", "bfloat16" or "float16").

    64 × 128 is the chunk of a sketch of 8,192 and longer; LoRA's weights have no more than 16 of one side. Warps and
    steps are such that nothing spills, on any card and however rows lie (docs/triton.md): strides may differ from batch
    to batch, bits may not.
    """
    block_out, block_in = (64, 16) if d_in <= 16 else (16 if d_out <= 16 else 64, 128)
    whole = block_out * block_in == 8192
    if dtype == "float32":
        # Three products of tf32 parts: as exact as float32 sums are, on tensor cores.
        return Config(block_out, block_in, *((16, 8, 4) if whole else (32, 4, 3)), "tf32x3")
    # 64 tokens a step spill where no vector divides the rows: they come as single elements, which wait in registers.
    return Config(block_out, block_in, 32, 8 if whole else 4, 4, "ieee")


def configurations(dtype: str) -> Iterator[Config]:
    """Every `Config` that `configuration` can choose for `dtype`."""
    for d_out, d_in in ((64, 128), (16, 128), (64, 16)):
        yield configuration(d_out, d_in, dtype)


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
