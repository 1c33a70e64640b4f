"""Compiles what a call would launch, with the very arguments that it passes, for an H100 that is not here.

Started by test_aot.py, in a process of its own. Triton's just-in-time compiler runs as on a card, up to the launch.
Prints, for each call, the hash of each kernel and how many asynchronous copies and tensor-core instructions it has.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()

import numpy as np
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from gradsift import Gamma, ProjectionSpec
from gradsift.ops.project_linear import triton


class AbsentH100:
    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Compiled:
    """Stands for a kernel: what would be launched is compiled and kept."""

    def __init__(self, kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *arguments, **constants: kept.append(self.kernel.warmup(*arguments, grid=grid, **constants))


kept: list = []
SPEC = ProjectionSpec(8192, seed=2**63 + 5)
ADAM = Gamma.adam(step=3)
# name: (weight's name, d_out, d_in, columns between tokens beside them, Γ)
CALLS = {
    "LoRA": ("layers.0.q_proj.lora_A.weight", 128, 4096, 0, ADAM),
    "another layer, wider": ("layers.1.down_proj.lora_A.weight", 128, 11008, 0, ADAM),
    "rows of an odd stride": ("layers.0.q_proj.lora_A.weight", 128, 4096, 3, ADAM),
    "one entry": ("layers.0.bias", 1, 1, 0, Gamma.sgd()),
}


def call(param: str, d_out: int, d_in: int, beside: int, gamma: Gamma) -> list[dict[str, object]]:
    a = torch.zeros(9, d_in + beside, dtype=torch.bfloat16)[:, :d_in]
    g = torch.zeros(9, d_out, dtype=torch.bfloat16)
    moments = (torch.ones(d_out, d_in), torch.ones(d_out, d_in)) if gamma.needs_moments else None
    out, norms = torch.empty(2, SPEC.proj_dim), torch.empty(2, 2, dtype=torch.float64)
    kept.clear()
    triton.project_linear(a, g, SPEC, param, np.array([0, 4, 9]), gamma, moments, out, norms, False, None)
    return [
        {
            "kernel": kernel.metadata.name,
            "hash": kernel.metadata.hash,
            "copies": kernel.asm["ptx"].count("cp.async.c"),
            "products": kernel.asm["ptx"].count("wgmma.mma_async") + kernel.asm["ptx"].count("mma.sync"),
        }
        for kernel in kept
    ]


if __name__ == "__main__":
    driver.set_active(AbsentH100())
    triton.sketch_tiles, triton.add_slabs = Compiled(triton.sketch_tiles), Compiled(triton.add_slabs)
    json.dump({name: call(*arguments) for name, arguments in CALLS.items()}, sys.stdout)
