"""`score_rows` on rows of floats against memory, matrix products and other people's scoring.

    python -m pytest benchmarks/bench_score_rows.py [--record]

49,152 rows of 8,192 numbers out of memory, scored, reduced to the best column and its number. Targets are averaged per
subtask before, ours and the peers', so that a column is a subtask; only the released LESS code, faiss and usearch take
five targets a subtask. The floor is the larger of reading the rows once and of the operations at the rate of the best
library product of that precision. Two threads, ours, the peers', the readers' and the products'.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import bandwidth
import timing
from gradsift.ops.score_rows import BlockScores, RowScorer

N, P, THREADS = 49_152, 8192, 2
EACH = 5  # targets a subtask
BLOCK = 4096
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
Call = Callable[[], object]
pytestmark = pytest.mark.benchmark(timer=timing.wall_clock)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with threadpool_limits(THREADS):
        yield
    torch.set_num_threads(before)


@functools.lru_cache(maxsize=2)
def stored(dtype: str) -> np.ndarray:
    some = np.random.default_rng(0).standard_normal((2048, P), dtype=np.float32)
    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}[dtype]
    rows = bandwidth.aligned((N, P * BYTES[dtype] // 4)).view(kind)
    for part in np.split(rows, N // len(some)):
        part[:] = some
    return rows


def targets(columns: int) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((columns, P), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rounded(columns: int) -> np.ndarray:
    return targets(columns).astype(ml_dtypes.bfloat16).astype(np.float32)


def ours(dtype: str, columns: np.ndarray) -> Call:
    scorer = RowScorer([columns], [1.0], [dtype], threads=THREADS)
    out = BlockScores(influence=np.empty(N, np.float32), best=np.empty(N, np.int32))
    return lambda: scorer.score([stored(dtype)], out)


def tensor(rows: np.ndarray) -> torch.Tensor:
    if rows.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(rows)


def product(dtype: str) -> tuple[Call, int]:
    """A product of 2048³ and its operations: bfloat16 in oneDNN; float32, for float16 rows too, in NumPy's BLAS."""
    a, b = (np.random.default_rng(i).standard_normal((2048, 2048), dtype=np.float32) for i in (2, 3))
    if dtype == "bfloat16":
        half_a, half_b = torch.from_numpy(a).bfloat16(), torch.from_numpy(b).bfloat16()
        out = torch.empty(2048, 2048, dtype=torch.bfloat16)
        return lambda: torch.mm(half_a, half_b, out=out), 2 * 2048**3
    kept = np.empty_like(a)
    return lambda: np.matmul(a, b, out=kept), 2 * 2048**3


@pytest.mark.parametrize("columns", [1, 4, 10, 20, 32, 57, 128])
@pytest.mark.parametrize("dtype", list(BYTES))
def test_to_floor(dtype, columns, record, benchmark, seconds):
    readers = timing.fastest(bandwidth.readers(stored(dtype).view(np.float32), THREADS), timing.wall_clock, 1)
    (reader,) = readers
    library, operations = product(dtype)
    calls = {"ours": ours(dtype, targets(columns)), **readers, "product": library}
    if dtype == "bfloat16":
        calls["rounded"] = ours(dtype, rounded(columns))
    times = timing.alternate(calls, timing.wall_clock, seconds=2 * seconds, benchmark=benchmark)
    read_ms = times.median(reader) * 1e3
    product_ms = times.median("product") * 1e3 * (2 * N * P * columns / operations)
    floor_ms = max(read_ms, product_ms)
    extra = {"rounded_to_floor": round(times.median("rounded") * 1e3 / floor_ms, 2)} if "rounded" in calls else {}
    record(
        f"{dtype}, {columns} columns",
        to_floor=round(times.median("ours") * 1e3 / floor_ms, 2),
        **extra,
        ours_ms=times.ms("ours"),
        read_ms=round(read_ms, 2),
        product_ms=round(product_ms, 2),
    )


def torch_bf16(columns: int) -> Call:
    rows, target = tensor(stored("bfloat16")), torch.from_numpy(targets(columns)).bfloat16().T
    out = torch.empty(BLOCK, columns, dtype=torch.bfloat16)

    def run() -> None:
        for part in rows.split(BLOCK):
            torch.mm(part, target, out=out[: len(part)]).max(dim=1)

    return run


def numkong_bf16(columns: int, pool: ThreadPoolExecutor) -> Call:
    import numkong

    rows = stored("bfloat16")
    packed = numkong.dots_pack(targets(columns).astype(ml_dtypes.bfloat16), dtype="bf16")
    out = numkong.Tensor(np.zeros((N, columns), np.float32))
    edges = np.linspace(0, N, THREADS + 1).astype(int).tolist()
    part = functools.partial(numkong.dots_packed, rows, packed, out=out)
    return lambda: list(pool.map(lambda a, b: part(start_row=a, end_row=b), edges[:-1], edges[1:]))


def released(columns: int) -> Call:
    """What LESS's matching.py computes: rows to float32, every target a column, means, the largest."""
    rows, target = tensor(stored("bfloat16")), torch.from_numpy(targets(columns * EACH)).T

    def run() -> None:
        torch.mm(rows.float(), target).reshape(N, columns, EACH).mean(-1).max(-1)

    return run


def faiss_flat(columns: int) -> Call:
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexScalarQuantizer(P, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)
    index.add(stored("bfloat16").astype(np.float32))
    return lambda: index.search(targets(columns * EACH), 100)


def usearch_exact(columns: int) -> Call:
    from usearch.index import MetricKind, search

    rows = stored("float16")  # it takes no bfloat16 from NumPy; float16 is as many bytes
    wanted = targets(columns * EACH).astype(np.float16)
    return lambda: search(rows, wanted, 100, MetricKind.IP, exact=True, threads=THREADS)


@pytest.mark.parametrize("columns", [10, 20, 32, 57])
def test_peers_to_ours(columns, record, benchmark, seconds):
    with ThreadPoolExecutor(THREADS) as pool:
        calls = {
            "ours": ours("bfloat16", targets(columns)),
            "ours, targets in bfloat16": ours("bfloat16", rounded(columns)),
            "torch bf16": torch_bf16(columns),
            "numkong bf16": numkong_bf16(columns, pool),
            "released LESS": released(columns),
        }
        if columns == 20:
            calls["faiss, best 100 a target"] = faiss_flat(columns)
            calls["usearch exact, best 100 a target"] = usearch_exact(columns)
        times = timing.alternate(calls, timing.wall_clock, rounds=5, benchmark=benchmark)
    record(
        f"{columns} columns",
        ms={name: times.ms(name)["median"] for name in calls},
        times_ours={name: round(times.ratio(name, "ours"), 2) for name in calls if name != "ours"},
    )
