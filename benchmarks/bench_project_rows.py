"""`project_rows` on one thread against a plain sum over the gradients, the floor of a streaming read, and torch.

OMP_NUM_THREADS=1 python -m pytest benchmarks/bench_project_rows.py -s -k alternating
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


class Problem:
    def __init__(self, case: cases.RowsCase) -> None:
        rng = np.random.default_rng(0)
        self.grads = 1e-3 * rng.standard_normal((case.batch, case.rows, case.cols), dtype=np.float32)
        m = 1e-4 * rng.standard_normal((case.rows, case.cols), dtype=np.float32)
        self.moments = (m, np.full_like(m, 1e-8))
        self.out = np.empty((case.batch, SPEC.proj_dim), np.float32)
        generator = torch.Generator().manual_seed(0)
        self.flat = torch.from_numpy(self.grads).flatten(1)
        self.index = torch.randint(SPEC.proj_dim, self.flat.shape[1:], generator=generator)
        self.sign = torch.randint(2, self.flat.shape[1:], generator=generator).float() * 2 - 1

    def sgd(self) -> None:
        ops.project_rows(self.grads, SPEC, param="w", out=self.out, backend="cpu", threads=1)

    def adam(self) -> None:
        ops.project_rows(
            self.grads, SPEC, param="w", gamma=ADAM, moments=self.moments, out=self.out, backend="cpu", threads=1
        )

    def numpy_sum(self) -> np.ndarray:
        return self.grads.sum((1, 2))

    def torch_sjlt(self) -> torch.Tensor:
        return torch.zeros(len(self.flat), SPEC.proj_dim).index_add_(1, self.index, self.flat * self.sign)


CALLS = ("sgd", "adam", "numpy_sum", "torch_sjlt")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=cases.ROWS, ids=lambda case: case.name)
def case(request):
    return request.param


def test_alternating(case):
    problem = Problem(case)
    problem.sgd()
    want = ops.project_rows(problem.grads, SPEC, param="w", backend="reference")
    assert np.linalg.norm(problem.out - want) < 1e-6 * np.linalg.norm(want)
    seconds = timing.alternate({name: getattr(problem, name) for name in CALLS})
    timing.report(case.name, case.read_bytes / 1e9, "GB/s of gradients", seconds, "adam")


@pytest.mark.parametrize("call", CALLS)
def test_table(benchmark, case, call):
    benchmark.group = case.name
    benchmark.extra_info["bytes"] = case.read_bytes
    benchmark(getattr(Problem(case), call))
