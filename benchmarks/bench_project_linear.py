"""`project_linear` against the best library product that only forms G; every Γ against none; two threads against one.

    python -m pytest benchmarks/bench_project_linear.py [--record]

One process; one thread except where two are the question. A batch is what the collector packs, 4,096 tokens. Each case
first tries every form of each library, then runs the best of them and ours in turn; the ratio is to the fastest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import cases
import gemm_peers
import machine
import timing
from cases import LinearCase, LinearProblem
from gradsift import Gamma, ProjectionSpec, ops

SPEC = ProjectionSpec(8192, seed=1)
ADAM = Gamma.adam(step=100)
GAMMAS = (ADAM, Gamma.less(), Gamma.affine(step=100), Gamma.second_moment(step=100), Gamma.sign())
CPU_TIME = pytest.mark.benchmark(timer=timing.cpu_clock)
FINALISTS = 3


def ours(
    problem: LinearProblem, gamma: Gamma, *, dtype: torch.dtype = torch.float32, threads: int = 1, norms: bool = False
) -> Callable[[], object]:
    a, g = (torch.from_numpy(x).to(dtype) for x in (problem.activations, problem.output_grads))
    moments = tuple(map(torch.from_numpy, problem.moments)) if gamma.needs_moments else None
    out = torch.from_numpy(problem.out)
    room = torch.from_numpy(problem.norms) if norms else None
    return lambda: ops.project_linear(
        a, g, SPEC, param="w", gamma=gamma, moments=moments, out=out, norms=room, backend="cpu", threads=threads
    )


def race(
    call: Callable[[], object], case: LinearCase, forms: dict[str, Callable[[], object]], seconds: float, benchmark
) -> dict[str, object]:
    finalists = timing.fastest(forms, timing.cpu_clock, FINALISTS)
    times = timing.alternate({"ours": call, **finalists}, timing.cpu_clock, seconds=seconds, benchmark=benchmark)
    best = times.best(list(finalists))
    path = machine.numpy_blas().split()[0] if best.startswith("numpy") else machine.path_taken(forms[best])
    return {
        "ratio": round(times.ratio("ours", best), 3),
        "ours_gflops": round(case.flop / times.median("ours") / 1e9, 1),
        "peer": best,
        "path": path,
        "peer_gflops": round(case.flop / times.median(best) / 1e9, 1),
        "ours_ms": times.ms("ours"),
        "peer_ms": times.ms(best),
        "rounds": len(times.seconds["ours"]),
    }


def slowest_of_default(problem: LinearProblem) -> tuple[str, Callable[[], object]]:
    """torch as it comes, which on AMD processors is MKL's slow path: to be named, not to be compared with."""
    forms = gemm_peers.torch_forms(problem, torch.float32, "highest")
    name = next(iter(timing.fastest(forms, timing.cpu_clock, 1)))
    return name, forms[name]


@CPU_TIME
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", cases.linear(), ids=lambda case: case.name)
def test_fp32_adam_to_gemm(case, record, benchmark, seconds):
    problem = LinearProblem(case, SPEC.proj_dim)
    figures = race(ours(problem, ADAM), case, gemm_peers.fp32_forms(problem), seconds, benchmark)
    record(case.name, **figures)


@CPU_TIME
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", cases.linear(), ids=lambda case: case.name)
def test_bf16_adam_to_gemm(case, record, benchmark, seconds):
    problem = LinearProblem(case, SPEC.proj_dim)
    call = ours(problem, ADAM, dtype=torch.bfloat16)
    forms = gemm_peers.torch_forms(problem, torch.bfloat16, "highest")
    record(case.name, **race(call, case, forms, seconds, benchmark))


@CPU_TIME
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", cases.linear((256,)), ids=lambda case: case.name)
def test_torch_as_it_comes(case, record, benchmark, seconds):
    """How much of "faster than torch" is the library path that torch takes by default."""
    problem = LinearProblem(case, SPEC.proj_dim)
    name, call = slowest_of_default(problem)
    others = gemm_peers.numpy_forms(problem)
    if gemm_peers.medium_is_float32():
        others |= gemm_peers.torch_forms(problem, torch.float32, "medium")
    best, best_call = next(iter(timing.fastest(others, timing.cpu_clock, 1).items()))
    times = timing.alternate(
        {"default": call, "best": best_call}, timing.cpu_clock, seconds=seconds, benchmark=benchmark
    )
    record(
        case.name,
        ratio=round(times.ratio("default", "best"), 3),
        default=name,
        path=machine.path_taken(call),
        best=best,
        default_gflops=round(case.flop / times.median("default") / 1e9, 1),
        best_gflops=round(case.flop / times.median("best") / 1e9, 1),
    )


@CPU_TIME
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", cases.linear((256,)), ids=lambda case: case.name)
def test_gamma_to_sgd(case, record, benchmark, seconds):
    problem = LinearProblem(case, SPEC.proj_dim)
    calls = {"sgd": ours(problem, Gamma.sgd())} | {gamma.kind: ours(problem, gamma) for gamma in GAMMAS}
    calls["adam, with norms"] = ours(problem, ADAM, norms=True)
    times = timing.alternate(calls, timing.cpu_clock, seconds=seconds, benchmark=benchmark)
    ratios = {name: round(times.ratio(name, "sgd"), 3) for name in calls if name != "sgd"}
    record(case.name, sgd_gflops=round(case.flop / times.median("sgd") / 1e9, 1), ratios=ratios)


@pytest.mark.benchmark(timer=timing.wall_clock)
@pytest.mark.parametrize("case", cases.linear((256,)), ids=lambda case: case.name)
def test_two_threads_to_one(case, record, benchmark, seconds):
    problem = LinearProblem(case, SPEC.proj_dim)
    one, two = ours(problem, ADAM, threads=1), ours(problem, ADAM, threads=2)
    one()
    want = problem.out.copy()
    two()
    np.testing.assert_array_equal(problem.out, want)
    times = timing.alternate({"two": two, "one": one}, timing.wall_clock, seconds=seconds, benchmark=benchmark)
    record(case.name, speedup=round(times.ratio("one", "two"), 3), one_ms=times.ms("one"), two_ms=times.ms("two"))
