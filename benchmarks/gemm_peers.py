"""The best that NumPy and torch do to only form G_b = output_grads_bᵀ activations_b of each sample, in every form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cases import LinearProblem

Call = Callable[[], object]


def numpy_forms(problem: LinearProblem) -> dict[str, Call]:
    """One product a sample into one buffer, or all at once into a batch of them; G, or its transpose."""
    a, g = problem.activations, problem.output_grads
    case = problem.case
    forms: dict[str, Call] = {}
    for transposed, (left, right) in enumerate(((g, a), (a, g))):
        suffix = " Gᵀ" if transposed else " G"
        one = np.empty((left.shape[2], right.shape[2]), np.float32)
        every = np.empty((case.batch, *one.shape), np.float32)

        def loop(left: np.ndarray = left, right: np.ndarray = right, out: np.ndarray = one) -> None:
            for x, y in zip(left, right, strict=True):
                np.matmul(x.T, y, out=out)

        def batched(left: np.ndarray = left, right: np.ndarray = right, out: np.ndarray = every) -> None:
            np.matmul(left.transpose(0, 2, 1), right, out=out)

        forms["numpy loop" + suffix] = loop
        forms["numpy batched" + suffix] = batched
    return forms


def torch_forms(problem: LinearProblem, dtype: torch.dtype, precision: str) -> dict[str, Call]:
    """The same with ``mm(out=)`` and ``bmm(out=)`` under ``set_float32_matmul_precision(precision)``."""
    a = torch.from_numpy(problem.activations).to(dtype)
    g = torch.from_numpy(problem.output_grads).to(dtype)
    kind = {torch.bfloat16: "bf16"}.get(dtype, f"fp32 {precision}")
    forms: dict[str, Call] = {}
    for transposed, (left, right) in enumerate(((g, a), (a, g))):
        suffix = f" {kind}" + (" Gᵀ" if transposed else " G")
        pairs = [(x.T, y) for x, y in zip(left, right, strict=True)]
        one = torch.empty(left.shape[2], right.shape[2], dtype=dtype)
        every = torch.empty(len(left), *one.shape, dtype=dtype)

        def loop(pairs: list[tuple[torch.Tensor, torch.Tensor]] = pairs, out: torch.Tensor = one) -> None:
            for x, y in pairs:
                torch.mm(x, y, out=out)

        def batched(left: torch.Tensor = left.mT, right: torch.Tensor = right, out: torch.Tensor = every) -> None:
            torch.bmm(left, right, out=out)

        forms["torch mm" + suffix] = at_precision(precision, loop)
        forms["torch bmm" + suffix] = at_precision(precision, batched)
    return forms


def at_precision(precision: str, call: Call) -> Call:
    """`call` under torch's float32 product precision: "highest" is MKL here, "medium" lets oneDNN have them."""

    def run() -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return call()
        finally:
            torch.set_float32_matmul_precision(before)

    return run


def fp32_forms(problem: LinearProblem) -> dict[str, Call]:
    """All forms that keep float32 accuracy here.

    "medium" allows a library to round its inputs to bfloat16. Where one does (AMX), it computes something else and is
    no peer of a float32 product: left out.
    """
    forms = numpy_forms(problem) | torch_forms(problem, torch.float32, "highest")
    if medium_is_float32():
        forms |= torch_forms(problem, torch.float32, "medium")
    return forms


def medium_is_float32() -> bool:
    """Whether "medium" loses nothing on this processor: error of a product against float64."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((256, n), dtype=np.float32) for n in (64, 96))
    want = x.T.astype(np.float64) @ y
    got = at_precision("medium", lambda: torch.mm(torch.from_numpy(x).T, torch.from_numpy(y)))()
    return bool(np.linalg.norm(np.asarray(got) - want) < 1e-5 * np.linalg.norm(want))
