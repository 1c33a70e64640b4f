"""`project_rows` against the machine's read bandwidth, every Γ against none, and other people's projections.

    python -m pytest benchmarks/bench_project_rows.py [--record]

Gradients of ten million entries come from memory, those of a few hundred thousand from the cache. Peers get their best
form: blocks of columns, buffers reused, every thread; their distortion stands beside their time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import bandwidth
import families
import sketch_peers
import timing
from gradsift import Gamma, ProjectionSpec, ops

SPEC = ProjectionSpec(8192, seed=1)
GAMMAS = (
    Gamma.adam(step=100), Gamma.less(), Gamma.affine(step=100), Gamma.second_moment(step=100), Gamma.sign(),
)  # fmt: skip
# Ten million entries, as a matrix of no handy width and as a vector (a norm's or a bias's shape).
MATRIX, VECTOR = (2500, 4000), (10_000_000,)
WALL = pytest.mark.benchmark(timer=timing.wall_clock)


@pytest.fixture(params=[1, 2], ids=lambda n: f"{n} threads" if n > 1 else "1 thread")
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with threadpool_limits(request.param):
        yield request.param
    torch.set_num_threads(before)


class Problem:
    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(0)
        self.grads = bandwidth.aligned((rows, *shape))
        rng.standard_normal(out=self.grads.reshape(rows, -1), dtype=np.float32)
        self.grads *= np.float32(1e-3)
        first = 1e-4 * rng.standard_normal(shape, dtype=np.float32)
        self.moments = (first, np.square(1e-4 * rng.standard_normal(shape, dtype=np.float32)) + np.float32(1e-12))
        self.out = np.empty((rows, SPEC.proj_dim), np.float32)

    def ours(self, threads: int, gamma: Gamma | None = None, spec: ProjectionSpec = SPEC) -> Callable[[], object]:
        gamma = gamma or Gamma.sgd()
        moments = self.moments if gamma.needs_moments else None
        return lambda: ops.project_rows(
            self.grads, spec, param="w", gamma=gamma, moments=moments, out=self.out, backend="cpu", threads=threads
        )


@WALL
@pytest.mark.parametrize("shape", [MATRIX, VECTOR], ids=["matrix", "vector"])
@pytest.mark.parametrize("rows", [8, 1])
def test_from_memory_to_read(rows, shape, threads, record, benchmark, seconds):
    problem = Problem(rows, shape)
    readers = timing.fastest(bandwidth.readers(problem.grads, threads), timing.wall_clock, 2)
    times = timing.alternate(
        {"ours": problem.ours(threads), **readers}, timing.wall_clock, seconds=2 * seconds, benchmark=benchmark
    )
    best = times.best(list(readers))
    gigabytes = problem.grads.nbytes / 1e9
    record(
        f"[{rows}, 1e7] {'matrix' if shape == MATRIX else 'vector'}, {threads} thread{'s' * (threads > 1)}",
        share=round(1 / times.ratio("ours", best), 3),
        ours_gb_per_s=round(gigabytes / times.median("ours"), 2),
        read_gb_per_s=round(gigabytes / times.median(best), 2),
        reader=best,
        ours_ms=times.ms("ours"),
        read_ms=times.ms(best),
    )


@WALL
@pytest.mark.parametrize("rows", [8, 1])
def test_two_threads_to_one(rows, record, benchmark, seconds):
    problem = Problem(rows, MATRIX)
    one, two = problem.ours(1), problem.ours(2)
    one()
    want = problem.out.copy()
    two()
    np.testing.assert_array_equal(problem.out, want)
    times = timing.alternate({"two": two, "one": one}, timing.wall_clock, seconds=2 * seconds, benchmark=benchmark)
    record(
        f"[{rows}, 1e7]", speedup=round(times.ratio("one", "two"), 3), one_ms=times.ms("one"), two_ms=times.ms("two")
    )


# (rows, shape, repeated): a batch whose every row is the same half megabyte shows the kernel alone; the others are real
# calls, with what the interpreter takes.
CACHED = {
    "one row of 512 KiB, 64 times": (64, (128, 1024), True),
    "[1, 128, 576]": (1, (128, 576), False),
    "[8, 16, 576]": (8, (16, 576), False),
    "[64, 576]": (64, (576,), False),
}


@pytest.mark.benchmark(timer=timing.cpu_clock)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(CACHED))
def test_from_cache(name, record, benchmark):
    rows, shape, repeated = CACHED[name]
    problem = Problem(1 if repeated else rows, shape)
    if repeated:
        problem.grads = np.broadcast_to(problem.grads, (rows, *shape))
        problem.out = np.empty((rows, SPEC.proj_dim), np.float32)
    calls = {"sgd": problem.ours(1), "adam": problem.ours(1, GAMMAS[0])}
    times = timing.alternate(calls, timing.cpu_clock, rounds=60, benchmark=benchmark)
    numbers = rows * int(np.prod(shape))
    record(
        name,
        numbers_per_ns=round(numbers / times.median("sgd") / 1e9, 2),
        adam_numbers_per_ns=round(numbers / times.median("adam") / 1e9, 2),
        sgd_ms=times.ms("sgd"),
    )


@pytest.mark.benchmark(timer=timing.cpu_clock)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rows", [8, 1])
def test_gamma_to_sgd(rows, record, benchmark, seconds):
    problem = Problem(rows, MATRIX)
    calls = {"sgd": problem.ours(1)} | {gamma.kind: problem.ours(1, gamma) for gamma in GAMMAS}
    times = timing.alternate(calls, timing.cpu_clock, seconds=3 * seconds, benchmark=benchmark)
    moments = 2 * problem.moments[0].nbytes
    record(
        f"[{rows}, 1e7]",
        sgd_ms=times.ms("sgd"),
        ratios={gamma.kind: round(times.ratio(gamma.kind, "sgd"), 3) for gamma in GAMMAS},
        bytes_to_sgd=round((problem.grads.nbytes + moments) / problem.grads.nbytes, 2),
    )


@WALL
@pytest.mark.parametrize("rows", [8, 1])
def test_torch_sjlt_to_ours(rows, threads, record, benchmark, seconds):
    problem = Problem(rows, MATRIX)
    flat = torch.from_numpy(problem.grads).flatten(1)
    calls: dict[str, Callable[[], object]] = {"ours": problem.ours(threads)}
    for form in sketch_peers.SJLT_FORMS:
        sjlt = sketch_peers.TorchSjlt(flat.shape[1], SPEC.proj_dim, rows, 0, form)
        calls[form] = lambda sjlt=sjlt: sjlt(flat)
    times = timing.alternate(calls, timing.wall_clock, seconds=3 * seconds, benchmark=benchmark)
    best = times.best(list(sketch_peers.SJLT_FORMS))
    record(
        f"[{rows}, 1e7], {threads} thread{'s' * (threads > 1)}",
        times_faster=round(times.ratio(best, "ours"), 2),
        best=best,
        ms={name: times.ms(name)["median"] for name in calls},
    )


@WALL
def test_dense_and_sparse_peers_to_ours(record, benchmark, seconds):
    """traker and scikit-learn at [8, 1e7], all threads: one is scaled from a slice, the other fitted and measured."""
    problem = Problem(8, MATRIX)
    flat = problem.grads.reshape(8, -1)
    start = time.perf_counter()
    transform = sketch_peers.sklearn_projector(flat.shape[1], SPEC.proj_dim)
    fit_s = time.perf_counter() - start
    calls = {"ours": problem.ours(torch.get_num_threads()), "sklearn": lambda: transform(flat)}
    times = timing.alternate(calls, timing.wall_clock, rounds=3, benchmark=benchmark)
    traker_s, how = sketch_peers.traker_seconds(flat.shape[1], SPEC.proj_dim, 8, torch.float32, slice_entries=1_000_000)
    record(
        "[8, 1e7]",
        ours_ms=times.ms("ours")["median"],
        sklearn_ms=times.ms("sklearn")["median"],
        sklearn_fit_s=round(fit_s, 1),
        sklearn_times_ours=round(times.ratio("sklearn", "ours"), 1),
        traker_s=round(traker_s, 1),
        traker_how=how,
        traker_times_ours=round(traker_s / times.median("ours")),
    )


ENTRIES = families.SHAPE[0] * families.SHAPE[1]
TOGETHER = families.VECTORS * len(families.FAMILIES)
Projection = Callable[[np.ndarray], np.ndarray]


def _ours(nonzeros: int, seed: int) -> Projection:
    spec = ProjectionSpec(SPEC.proj_dim, seed=seed, nonzeros=nonzeros)
    out = np.empty((TOGETHER, SPEC.proj_dim), np.float32)
    return lambda x: ops.project_rows(x.reshape(-1, *families.SHAPE), spec, param="w", out=out)


def _torch(seed: int) -> Projection:
    sjlt = sketch_peers.TorchSjlt(ENTRIES, SPEC.proj_dim, TOGETHER, seed, "index_add_")
    return lambda x: sjlt(torch.from_numpy(x)).numpy()


def _traker(seed: int) -> Projection:
    projector = sketch_peers.traker_projector(ENTRIES, SPEC.proj_dim, seed=seed)
    return lambda x: projector.project(torch.from_numpy(x), 0).numpy()


# How to make each with a seed, how many seeds, and how many rounds to time: traker takes 12 s for any number of rows.
PROJECTIONS: dict[str, tuple[Callable[[int], Projection], int, int]] = {
    "gradsift, nonzeros 1": (lambda seed: _ours(1, seed), 8, 20),
    "gradsift, nonzeros 4": (lambda seed: _ours(4, seed), 8, 20),
    "torch SJLT": (_torch, 8, 20),
    "scikit-learn sparse": (lambda seed: sketch_peers.sklearn_projector(ENTRIES, SPEC.proj_dim, seed), 2, 5),
    "traker dense": (_traker, 1, 1),
}


@WALL
@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_distortion_beside_time(name, record, benchmark):
    """Every projection in full at [256, 131072]: the error of the cosines it leaves, and what the rows take."""
    make, seeds, rounds = PROJECTIONS[name]
    rng = np.random.default_rng(0)
    vectors = np.concatenate([draw(rng).reshape(-1, ENTRIES) for draw in families.FAMILIES.values()])
    squared: dict[str, list[float]] = {family: [] for family in families.FAMILIES}
    for seed in range(seeds):
        project = make(seed)
        sketches = project(vectors)
        for family, rows, sketch in zip(squared, np.split(vectors, 4), np.split(sketches, 4), strict=True):
            squared[family].append(families.distortion(rows, sketch) ** 2)
    times = timing.alternate(
        {name: lambda: project(vectors)}, timing.wall_clock, rounds=rounds, warm=False, benchmark=benchmark
    )
    record(
        name,
        ms_per_row=round(times.median(name) * 1e3 / TOGETHER, 4),
        seeds=seeds,
        **{family: round(float(np.sqrt(np.mean(values))), 2) for family, values in squared.items()},
    )
