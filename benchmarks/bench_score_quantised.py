"""`score_rows` on rows of 8, 4 and 1 bit against memory, the int8 product and other people's low-bit scoring.

    python -m pytest benchmarks/bench_score_quantised.py [--record]

65,536 rows of 8,192 numbers, dense scores of every row for every column unless said otherwise. Targets of ours and of
the peers are averaged per subtask before, so that a column is a subtask; peers keep their buffers, take blocks of rows
that stay in the cache and both cores. The floor is the larger of reading the rows once and of the operations at the
rate of torch's best int8 product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import bandwidth
import low_bit_peers as peers
import timing
from gradsift import ops
from gradsift.ops.score_rows import BlockScores, RowScorer

N, P, THREADS = 65_536, 8192, 2
BITS = {"int8": 8, "int4": 4, "int1": 1}
pytestmark = pytest.mark.benchmark(timer=timing.wall_clock)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    with threadpool_limits(THREADS):
        yield
    torch.set_num_threads(before)


@functools.cache
def stored(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of rows whose numbers are normal; 4,096 rows over and over, written apart."""
    some = np.random.default_rng(0).standard_normal((4096, P), dtype=np.float32)
    found = ops.quantise_rows(some, bits=BITS[dtype], seed=1)
    codes = bandwidth.aligned((N, P * BITS[dtype] // 32)).view(np.uint8)
    for part in np.split(codes, N // 4096):
        part[:] = found.codes
    return codes, np.tile(found.scales, N // 4096)


def targets(columns: int) -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((columns, P), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ours(dtype: str, columns: int) -> Callable[[], object]:
    codes, scales = stored(dtype)
    scorer = RowScorer([targets(columns)], [1.0], [dtype], seeds=[1], threads=THREADS)
    out = BlockScores(scores=np.empty((N, columns), np.float32))
    return lambda: scorer.score([codes], out, scales=[scales])


def race(calls: dict[str, Callable[[], object]], seconds: float, benchmark: object) -> timing.Times:
    return timing.alternate(calls, timing.wall_clock, seconds=seconds, benchmark=benchmark)


@pytest.mark.parametrize("columns", [1, 10, 16, 32, 64, 100, 128])
@pytest.mark.parametrize("dtype", list(BITS))
def test_to_floor(dtype, columns, record, benchmark, seconds):
    codes, _ = stored(dtype)
    readers = timing.fastest(bandwidth.readers(codes.view(np.float32), THREADS), timing.wall_clock, 1)
    product, operations = peers.square_product()
    times = race({"ours": ours(dtype, columns), **readers, "product": product}, 2 * seconds, benchmark)
    (reader,) = readers
    read_ms = times.median(reader) * 1e3
    product_ms = times.median("product") * 1e3 * (2 * N * P * columns / operations)
    ours_ms = times.median("ours") * 1e3
    record(
        f"{dtype}, {columns} columns",
        to_floor=round(ours_ms / max(read_ms, product_ms), 2),
        ours_ms=times.ms("ours"),
        read_ms=round(read_ms, 2),
        product_ms=round(product_ms, 2),
        rows_per_s=round(N / times.median("ours")),
    )


@pytest.mark.parametrize("columns", [1, 10, 16, 100])
def test_bits_to_int8(columns, record, benchmark, seconds):
    times = race({dtype: ours(dtype, columns) for dtype in BITS}, 2 * seconds, benchmark)
    record(
        f"{columns} columns",
        int4_times_int8=round(times.ratio("int8", "int4"), 2),
        int1_times_int8=round(times.ratio("int8", "int1"), 2),
        ms={dtype: times.ms(dtype)["median"] for dtype in BITS},
    )


@pytest.mark.parametrize("columns", [10, 100])
@pytest.mark.parametrize("dtype", ["int8", "int1"])
def test_peers_to_ours(dtype, columns, record, benchmark, seconds):
    codes, scales = stored(dtype)
    calls = {"ours": ours(dtype, columns)}
    with ThreadPoolExecutor(THREADS) as pool:
        if dtype == "int8":
            calls["numkong int8"] = peers.numkong_int8(codes, targets(columns), pool)
            calls["torch _int_mm"] = peers.int_mm(codes, targets(columns))
            calls["dequantised, fp32 product"] = peers.dequantised(codes, scales, targets(columns))
        else:
            calls["numkong Hamming, 1-bit targets"] = peers.numkong_hamming(codes, targets(columns), pool)
            calls["unpacked, bf16 product"] = peers.unpacked_bf16(codes, targets(columns))
            calls["unpacked, torch _int_mm"] = peers.unpacked_int_mm(codes, targets(columns))
        times = race(calls, 4 * seconds, benchmark)
    record(
        f"{dtype}, {columns} columns",
        ms={name: times.ms(name)["median"] for name in calls},
        times_ours={name: round(times.ratio(name, "ours"), 2) for name in calls if name != "ours"},
    )


@pytest.mark.parametrize("columns", [10, 100])
def test_faiss_to_ours(columns, record, benchmark, seconds):
    """RaBitQ: 1-bit rows against 8-bit targets (qb 8), or 4-bit tables (FastScan); the best 5% of each column alone."""
    calls = {"ours, dense": ours("int1", columns)}
    for name, index in peers.rabitq_indexes(N, P).items():
        calls[name] = functools.partial(index.search, targets(columns), N // 20)
    times = race(calls, 4 * seconds, benchmark)
    record(
        f"int1, {columns} columns",
        ms={name: times.ms(name)["median"] for name in calls},
        times_ours={name: round(times.ratio(name, "ours, dense"), 2) for name in calls if name != "ours, dense"},
    )
