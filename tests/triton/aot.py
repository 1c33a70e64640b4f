"""Compiles the Triton kernels ahead of time for cards that are not here, and says what each needs of its card.

    python tests/triton/aot.py           # a table
    python tests/triton/aot.py --write   # the same, kept in tests/triton/budgets.json and docs/triton.md
    python tests/triton/aot.py --sample 600   # so many of all that can vary, drawn: which spill

Needs no GPU: Triton's wheel has ptxas.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
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
    """One compilation: a kernel, its constants, the card. Vectors of 0 elements are the longest that there are."""

    kernel: str
    card: int
    dtype: str = "bfloat16"
    block_out: int = 64
    block_in: int = 128
    proj_dim: int = 8192
    nonzeros: int = 1
    gamma: str = "adam"
    norms: bool = True
    packed: bool = True
    moments: str = "float32"
    vec_a: int = 0
    vec_g: int = 0

    def name(self) -> str:
        if self.kernel == "add_slabs":
            return f"add_slabs sm_{self.card}"
        text = f"{self.block_out}x{self.block_in} {self.dtype} P={self.proj_dim} s={self.nonzeros} {self.gamma}"
        return f"sketch_tiles {text}{self._form()}{' no norms' * (not self.norms)} sm_{self.card}"

    def _form(self) -> str:
        form = {name: getattr(self, name) for name in RAGGED}
        if form == RAGGED:
            return " ragged"
        return "".join(f" {name}={value}" for name, value in form.items() if value != getattr(Job, name))


# Padded operands that no vector divides, and moments in bfloat16.
RAGGED: dict[str, Any] = {"packed": False, "moments": "bfloat16", "vec_a": 1, "vec_g": 1}


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
                    yield Job("sketch_tiles", card, dtype, *tile, **RAGGED)
                if dtype == "bfloat16" and tile != (64, 128):
                    for proj_dim, nonzeros in ((1024, 1), (65536, 1), (8192, 4)):
                        yield Job("sketch_tiles", card, dtype, *tile, proj_dim=proj_dim, nonzeros=nonzeros)
        yield Job("sketch_tiles", card, proj_dim=256)
        yield Job("sketch_tiles", card, proj_dim=65536, nonzeros=4)
        yield Job("add_slabs", card)
        yield from once_spilled(card)
    for gamma in ("sgd", "less", "affine", "second_moment", "sign"):
        yield Job("sketch_tiles", 90, gamma=gamma)
    yield Job("sketch_tiles", 90, norms=False)
    for proj_dim, nonzeros in ((256, 1), (65536, 4)):
        yield Job("sketch_tiles", 90, "float32", proj_dim=proj_dim, nonzeros=nonzeros)


def once_spilled(card: int) -> Iterator[Job]:
    """What spilled on some card with other steps, loops or assembler options than now."""
    yield Job("sketch_tiles", card, gamma="affine", **RAGGED)
    yield Job("sketch_tiles", card, proj_dim=65536, nonzeros=4, **RAGGED)
    yield Job("sketch_tiles", card, "float32", gamma="sign")
    for dtype in ("float32", "bfloat16"):
        yield Job("sketch_tiles", card, dtype, nonzeros=8, gamma="sgd")
        yield Job("sketch_tiles", card, dtype, proj_dim=256, nonzeros=4)
        yield Job("sketch_tiles", card, dtype, proj_dim=256, nonzeros=4, gamma="affine", **RAGGED)
    for gamma in ("adam", "less"):
        yield Job("sketch_tiles", card, nonzeros=4, gamma=gamma)
    yield Job("sketch_tiles", card, "float16", 64, 16, proj_dim=32768, nonzeros=4, packed=False)
    yield Job("sketch_tiles", card, "bfloat16", 64, 16, proj_dim=32768, nonzeros=8, norms=False, **RAGGED)


def sampled(count: int) -> Iterator[Job]:
    """A sample of the product of all that can vary: every other one `RAGGED`, two of three 64 × 128."""
    from gradsift.ops.project_linear.triton_config import configurations
    from gradsift.specs import GAMMA_KINDS

    draw = random.Random(0).choice
    for number in range(count):
        dtype = draw(("float32", "bfloat16", "float32", "bfloat16", "float16"))
        config = draw(list(configurations(dtype)) if number % 3 == 2 else list(configurations(dtype))[:1])
        vectors = (1, 2, 4) if dtype == "float32" else (1, 2, 4, 8)
        form = {"packed": draw((True, False)), "moments": draw(("float32", "bfloat16"))}
        form |= {"vec_a": draw(vectors), "vec_g": draw(vectors)}
        yield Job(
            "sketch_tiles",
            draw(list(CARDS)),
            dtype,
            config.block_out,
            config.block_in,
            proj_dim=draw([256 << power for power in range(9)]),
            nonzeros=draw((1, 1, 2, 4, 8)),
            gamma=draw(GAMMA_KINDS),
            norms=draw((True, True, False)),
            **(RAGGED if number % 2 else form),
        )


def compile_job(job: Job) -> dict[str, Any]:
    """registers, spill_bytes, shared_bytes, and how often each tensor-core instruction stands in the PTX.

    As Triton's own call of ptxas says: it passes options that change what spills.
    """
    os.environ.pop("TRITON_INTERPRET", None)
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(said):
        os.environ["TRITON_CACHE_DIR"] = cache
        from triton import knobs
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        kernel, signature, constants, options = _arguments(job)
        full = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(full.values()) if kind.startswith("*")}
        knobs.nvidia.dump_ptxas_log = True
        source = ASTSource(kernel, full, constexprs=constants, attrs=aligned)
        compiled = compile(source, target=GPUTarget("cuda", job.card, 32), options=options)
    ptx = compiled.asm["ptx"]
    return {
        **_said_of_one_kernel(said.getvalue()),
        "shared_bytes": compiled.metadata.shared,
        "tensor_core": {name: count for name in TENSOR_CORES[job.card] if (count := ptx.count(name))},
    }


def compile_all(todo: list[Job], processes: int) -> dict[str, dict[str, Any]]:
    with ProcessPoolExecutor(processes) as pool:
        found = {}
        for job, needs in zip(todo, pool.map(compile_job, todo), strict=True):
            found[job.name()] = needs
            say = f"{len(found)} of {len(todo)}: {job.name()}, {needs['spill_bytes']} bytes spilled"
            print(say, file=sys.stderr, flush=True)
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
    operand, moment = "*" + TYPES[job.dtype], "*" + TYPES[job.moments]
    signature = dict.fromkeys(triton_kernel.UNSPECIALISED, "i32")
    signature |= {"a_ptr": operand, "g_ptr": operand, "m_ptr": moment, "v_ptr": moment, "cu_ptr": "*i64"}
    signature |= {"slab_ptr": "*fp32", "norm_ptr": "*fp64"}
    signature |= dict.fromkeys(("first_m", "first_g", "second_v", "second_g", "inner_eps", "eps"), "fp32")
    longest = 4 if job.dtype == "float32" else 8
    vectors = {"VEC_A": job.vec_a or longest, "VEC_G": job.vec_g or longest}
    constants = {"PROJ_DIM": job.proj_dim, "NONZEROS": job.nonzeros, "GAMMA": GAMMA_KINDS.index(job.gamma)}
    constants |= {"NORMS": job.norms, "PACKED": job.packed, **vectors, **config.constants()}
    return triton_kernel.sketch_tiles, signature, constants, config.options()


def _said_of_one_kernel(log: str) -> dict[str, int]:
    (registers,) = re.findall(r"Used (\d+) registers", log)
    (spills,) = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    return {"registers": int(registers), "spill_bytes": sum(map(int, spills))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="keep what is found as the budget")
    parser.add_argument("--json", type=Path, help="a file to write the same to, for the tests")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sample", type=int, help="compile so many of all that can vary, and say what spills")
    arguments = parser.parse_args()
    if arguments.sample:
        found = compile_all(list(dict.fromkeys(sampled(arguments.sample))), arguments.processes)
        spilling = {name: needs for name, needs in found.items() if needs["spill_bytes"]}
        print(table(spilling))
        print(f"{len(spilling)} of {len(found)} spill")
        return
    found = compile_all(list(jobs()), arguments.processes)
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
