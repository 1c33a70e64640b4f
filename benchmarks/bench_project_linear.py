"""`project_linear` on one thread against what others pay: the bare product G, and G with a sparse projection in torch.

    PYTHONPATH=benchmarks OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \\
        python -m pytest benchmarks/bench_project_linear.py -s

``-k alternating`` prints ratios from one run; ``--benchmark-only`` is pytest-benchmark's table.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cases
import timing
from gradsift import Gamma, ProjectionSpec, ops

SPEC = ProjectionSpec(8192, seed=1)
ADAM = Gamma.adam(step=10)
# Entries of G that the torch projection takes at a time: index, sign and product stay in the cache.
CHUNK = 1 << 17


class Problem:
    def __init__(self, case: cases.LinearCase) -> None:
        rng = np.random.default_rng(0)
        self.a = rng.standard_normal((case.batch, case.tokens, case.d_in), dtype=np.float32)
        self.g = 1e-3 * rng.standard_normal((case.batch, case.tokens, case.d_out), dtype=np.float32)
        m = 1e-4 * rng.standard_normal((case.d_out, case.d_in), dtype=np.float32)
        self.moments = (m, np.full_like(m, 1e-8))
        self.out = np.empty((case.batch, SPEC.proj_dim), np.float32)
        self.torch_a, self.torch_g = torch.from_numpy(self.a), torch.from_numpy(self.g)
        entries = case.d_out * case.d_in
        generator = torch.Generator().manual_seed(0)
        self.index = torch.randint(SPEC.proj_dim, (entries,), generator=generator)
        self.sign = torch.randint(2, (entries,), generator=generator).float() * 2 - 1
        self.bf16 = (self.torch_a.bfloat16(), self.torch_g.bfloat16())
        self.bf16_out = torch.from_numpy(self.out)

    def fused_sgd(self) -> None:
        ops.project_linear(self.a, self.g, SPEC, param="w", out=self.out, backend="cpu", threads=1)

    def fused_adam(self) -> None:
        ops.project_linear(
            self.a, self.g, SPEC, param="w", gamma=ADAM, moments=self.moments, out=self.out, backend="cpu", threads=1
        )

    def fused_sgd_bf16(self) -> None:
        ops.project_linear(*self.bf16, SPEC, param="w", out=self.bf16_out, backend="cpu", threads=1)

    def numpy_gemm_only(self) -> list[np.ndarray]:
        return [g.T @ a for g, a in zip(self.g, self.a, strict=True)]

    def torch_gemm_only(self) -> list[torch.Tensor]:
        return [g.T @ a for g, a in zip(self.torch_g, self.torch_a, strict=True)]

    def torch_sjlt(self) -> torch.Tensor:
        sketches = torch.zeros(len(self.a), SPEC.proj_dim)
        for sketch, gradient in zip(sketches, self.torch_gemm_only(), strict=True):
            flat = gradient.flatten()
            for start in range(0, len(flat), CHUNK):
                part = slice(start, start + CHUNK)
                sketch.index_add_(0, self.index[part], flat[part] * self.sign[part])
        return sketches


CALLS = ("fused_sgd", "fused_adam", "fused_sgd_bf16", "numpy_gemm_only", "torch_gemm_only", "torch_sjlt")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=cases.LINEAR, ids=lambda case: case.name)
def case(request):
    return request.param


def test_alternating(case):
    problem = Problem(case)
    problem.fused_sgd()
    want = ops.project_rows(np.stack(problem.numpy_gemm_only()), SPEC, param="w", backend="reference")
    assert np.linalg.norm(problem.out - want) < 1e-5 * np.linalg.norm(want)
    seconds = timing.alternate({name: getattr(problem, name) for name in CALLS})
    timing.report(case.name, case.flop / 1e9, "GF/s", seconds, "fused_adam")


@pytest.mark.parametrize("call", CALLS)
def test_table(benchmark, case, call):
    benchmark.group = case.name
    benchmark.extra_info["flop"] = case.flop
    benchmark(getattr(Problem(case), call))
