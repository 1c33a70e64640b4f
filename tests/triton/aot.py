"""Compiles the Triton kernels ahead of time for cards that are not here, and says what each needs of its card.

    python tests/triton/aot.py           # a table
    python tests/triton/aot.py --write   # the same, kept in tests/triton/budgets.json and docs/triton.md

Needs no GPU: Triton's wheel has ptxas.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUDGETS = Path(__file__).with_name("budgets.json")
PAGE = Path(__file__).parents[2] / "docs" / "triton.md"
CARDS = {80: "A100", 90: "H100", 100: "B200"}
# The most shared memory that one program can have, in bytes.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
TENSOR_CORES = {80: ("mma.sync",), 90: ("wgmma.mma_async", "mma.sync"), 100: ("tcgen05.mma", "mma.sync")}
TYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Job:
    """One compilation: a kernel, its constants, the card.

    `ragged`: padded operands that no vector divides, and moments in bfloat16.
    """

    kernel: str
    card: int
    dtype: str = "bfloat16"
    block_out: int = 64
    block_in: int = 128
    proj_dim: int = 8192
    nonzeros: int = 1
    gamma: str = "adam"
    norms: bool = True
    ragged: bool = False

    def name(self) -> str:
        if self.kernel == "add_slabs":
            return f"add_slabs sm_{self.card}"
        text = f"{self.block_out}x{self.block_in} {self.dtype} P={self.proj_dim} s={self.nonzeros} {self.gamma}"
        return f"sketch_tiles {text}{' ragged' * self.ragged}{' no norms' * (not self.norms)} sm_{self.card}"


def jobs() -> Iterator[Job]:
    """Every tile that the rule can choose, for every card, with Adam, which needs most; and what else can vary.

    Of float16 only what vectors divide: it compiles as bfloat16 does, but for the kind of product.
    """
    from gradsift.ops.project_linear.triton_config import configurations

    for card in CARDS:
        for dtype in TYPES:
            for config in configurations(dtype):
                tile = config.block_out, config.block_in
                yield Job("sketch_tiles", card, dtype, *tile)
                if dtype != "float16":
                    yield Job("sketch_tiles", card, dtype, *tile, ragged=True)
                if dtype == "bfloat16" and tile != (64, 128):
                    for proj_dim, nonzeros in ((1024, 1), (65536, 1), (8192, 4)):
                        yield Job("sketch_tiles", card, dtype, *tile, proj_dim=proj_dim, nonzeros=nonzeros)
        yield Job("sketch_tiles", card, proj_dim=256)
        yield Job("sketch_tiles", card, proj_dim=65536, nonzeros=4)
        yield Job("add_slabs", card)
    for gamma in ("sgd", "less", "affine", "second_moment", "sign"):
        yield Job("sketch_tiles", 90, gamma=gamma)
    yield Job("sketch_tiles", 90, norms=False)
    for proj_dim, nonzeros in ((256, 1), (65536, 4)):
        yield Job("sketch_tiles", 90, "float32", proj_dim=proj_dim, nonzeros=nonzeros)


def compile_job(job: Job) -> dict[str, Any]:
    """registers, spill_bytes, shared_bytes, and how often each tensor-core instruction stands in the PTX."""
    os.environ.pop("TRITON_INTERPRET", None)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        kernel, signature, constants, options = _arguments(job)
        full = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(full.values()) if kind.startswith("*")}
        source = ASTSource(kernel, full, constexprs=constants, attrs=aligned)
        compiled = compile(source, target=GPUTarget("cuda", job.card, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        **_ptxas(ptx),
        "shared_bytes": compiled.metadata.shared,
        "tensor_core": {name: count for name in TENSOR_CORES[job.card] if (count := ptx.count(name))},
    }


def compile_all(processes: int) -> dict[str, dict[str, Any]]:
    todo = list(jobs())
    with ProcessPoolExecutor(processes) as pool:
        found = {}
        for job, needs in zip(todo, pool.map(compile_job, todo), strict=True):
            found[job.name()] = needs
            print(f"{len(found)} of {len(todo)}: {job.name()}", file=sys.stderr, flush=True)
        return found


def _arguments(job: Job) -> tuple[Any, dict[str, str], dict[str, Any], dict[str, int]]:
    from gradsift.ops.project_linear import triton_kernel
    from gradsift.ops.project_linear.triton_config import configuration
    from gradsift.specs import GAMMA_KINDS

    if job.kernel == "add_slabs":
        signature = dict.fromkeys(("slabs", "slices", "out_row", "norms_row"), "i32") | {"scale": "fp32"}
        signature |= {"slab_ptr": "*fp32", "out_ptr": "*fp32", "norm_slices_ptr": "*fp64", "norms_ptr": "*fp64"}
        constants = {"PROJ_DIM": job.proj_dim, "ACCUMULATE": True, "NORMS": True, "BLOCK": 256, "DEPTH": 16}
        return triton_kernel.add_slabs, signature, constants, {"num_warps": 4}
    config = configuration(job.block_out, job.block_in, job.dtype)
    operand, moment = "*" + TYPES[job.dtype], "*bf16" if job.ragged else "*fp32"
    signature = dict.fromkeys(triton_kernel.UNSPECIALISED, "i32")
    signature |= {"a_ptr": operand, "g_ptr": operand, "m_ptr": moment, "v_ptr": moment, "cu_ptr": "*i64"}
    signature |= {"slab_ptr": "*fp32", "norm_ptr": "*fp64"}
    signature |= dict.fromkeys(("first_m", "first_g", "second_v", "second_g", "inner_eps", "eps"), "fp32")
    vector = 1 if job.ragged else 4 if job.dtype == "float32" else 8
    constants = {"PROJ_DIM": job.proj_dim, "NONZEROS": job.nonzeros, "GAMMA": GAMMA_KINDS.index(job.gamma)}
    constants |= {"NORMS": job.norms, "PACKED": not job.ragged, "VEC_A": vector, "VEC_G": vector, **config.constants()}
    return triton_kernel.sketch_tiles, signature, constants, config.options()


def _ptxas(ptx: str) -> dict[str, int]:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    target = re.search(r"\.target (\w+)", ptx)
    assert target is not None, "PTX without a target"
    tool = tools / ("ptxas-blackwell" if target[1].startswith("sm_10") else "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [str(tool), "-v", f"--gpu-name={target[1]}", str(source), "-o", str(source) + ".cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)[-1]
    return {"registers": int(re.findall(r"Used (\d+) registers", said)[-1]), "spill_bytes": sum(map(int, spills))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep what is found as the budget")
    parser.add_argument("--json", type=Path, help="a file to write the same to, for the tests")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    found = compile_all(arguments.processes)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")
    if arguments.write:
        import triton

        record = {"triton": triton.__version__, "kernels": found}
        BUDGETS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_table(page, table(found)), encoding="utf-8")


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| kernel | registers | spilled bytes | shared bytes | tensor cores |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, needs in found.items():
        cores = ", ".join(f"{count} {kind}" for kind, count in needs["tensor_core"].items()) or "none"
        lines.append(f"| {name} | {needs['registers']} | {needs['spill_bytes']} | {needs['shared_bytes']} | {cores} |")
    return "\n".join(lines)


def between_marks(page: str) -> str:
    return page.split("<!-- aot -->")[1].split("<!-- end -->")[0]


def with_table(page: str, made: str) -> str:
    """The page with `made` between the marks, and all else as it was."""
    before, rest = page.split("<!-- aot -->")
    return f"{before}<!-- aot -->\n{made}\n<!-- end -->{rest.split('<!-- end -->')[1]}"


if __name__ == "__main__":
    main()
