"""Runs the kernels in the interpreter on tensors that end at a forbidden page, as they are and with bugs planted.

Started by test_interpreted.py, in a process of its own. Each case runs in a fork, since what is looked for kills it.
Prints {case: "ok", "fault", "wrong" or the error} as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import bf16_interpreter  # noqa: F401
import numpy as np
import torch
from guard import guarded

from gradsift import Gamma, ProjectionSpec
from gradsift.ops import project_linear
from gradsift.ops.project_linear import triton, triton_kernel

# name: (what the source says, what the bug makes of it)
BUGS = {
    "activations are read beyond their columns": ("mask=here & (j < d_in)[None, :]", "mask=here & (j >= 0)[None, :]"),
    "output gradients are read beyond their columns": (
        "mask=here & (i < d_out)[None, :]",
        "mask=here & (i >= 0)[None, :]",
    ),
    "tokens are read beyond the last": ("here = (t0 + time < tokens)[:, None]", "here = (t0 + time >= 0)[:, None]"),
    "moments are read beyond their rows": ("inside = (row0 + r < d_out)[:, None]", "inside = (row0 + r >= 0)[:, None]"),
    "a slab is written beyond its end": ("slab + ((group + row * 128)", "slab + ((group + 128 + row * 128)"),
    "the wrong key draws the masks": ("key_hi ^ MASK_KEY", "key_hi"),
    "signs are those of the next row": ("_philox(i, J, id_lo", "_philox(i + 1, J, id_lo"),
    "a slab is not started anew": ("(fresh == 0)", "(fresh < 2)"),
    "every repeat starts the slab anew": ("((fresh == 0) | (repeat > 0))", "(fresh == 0)"),
    "repeats draw the same signs and masks": ("turn += GOLDEN", "turn += 0"),
    "rows of a chunk have two masks": ("tl.join(mask, mask)", "tl.join(mask, mask ^ 1)"),
}
SPEC = ProjectionSpec(256, seed=5, nonzeros=4)


def run_case() -> str:
    rng = np.random.default_rng(0)
    a, g = rng.integers(-3, 4, size=(10, 70)), rng.integers(-2, 3, size=(10, 5))
    a, g = (guarded(torch.tensor(x, dtype=torch.bfloat16)) for x in (a, g))
    offsets = np.array([0, 3, 10])
    want = project_linear(a, g, SPEC, param="w", cu_seqlens=offsets, backend="reference")
    empty = torch.empty

    def guarded_empty(*arguments, **keywords):
        return guarded(empty(*arguments, **keywords).fill_(float("nan")))

    torch.empty = guarded_empty
    out, norms = torch.empty(2, 256), torch.empty(2, 2, dtype=torch.float64)
    arguments = {"param": "w", "cu_seqlens": offsets, "out": out, "norms": norms, "backend": "triton"}
    project_linear(a, g, SPEC, **arguments)
    right = torch.equal(out, want)
    moments = (guarded(torch.ones(5, 70)), guarded(torch.ones(5, 70)))
    project_linear(a, g, SPEC, gamma=Gamma.adam(step=1), moments=moments, **arguments)
    return "ok" if right and out.isfinite().all() else "wrong"


def in_a_fork(bug: tuple[str, str] | None) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            if bug is not None:
                plant(*bug)
            answer = run_case()
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "fault" if status in (-signal.SIGSEGV, -signal.SIGBUS) else said or f"exit code {status}"


def plant(right: str, wrong: str) -> None:
    source = Path(triton_kernel.__file__).read_text("utf-8")
    assert right in source, f"the kernel no longer says {right!r}"
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as file:
        file.write(source.replace(right, wrong))
        file.flush()
        spec = importlib.util.spec_from_file_location("planted_kernel", file.name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    triton.sketch_tiles = module.sketch_tiles


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answers = {name: in_a_fork(bug) for name, bug in {"as it is": None, **BUGS}.items()}
    print(json.dumps(answers))
