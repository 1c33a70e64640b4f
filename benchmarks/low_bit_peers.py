"""Other people's ways to score rows of 8 and 1 bit, each in its best form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

Call = Callable[[], object]
BLOCK = 4096  # rows whose int8 numbers and products stay in the cache


def _as_int8(targets: np.ndarray) -> np.ndarray:
    largest = np.abs(targets).max(axis=1, keepdims=True)
    return np.rint(targets * (127 / largest)).astype(np.int8)


def square_product() -> tuple[Call, int]:
    """torch's int8 product of 2048³, the fastest shape it has here, and its operations."""
    a, b = (torch.randint(-127, 128, (2048, 2048), dtype=torch.int8) for _ in range(2))
    out = torch.empty(2048, 2048, dtype=torch.int32)
    return lambda: torch._int_mm(a, b, out=out), 2 * 2048**3


def _by_rows(pool: ThreadPoolExecutor, n: int, call: Callable[[int, int], object]) -> Call:
    edges = np.linspace(0, n, pool._max_workers + 1).astype(int).tolist()
    return lambda: list(pool.map(call, edges[:-1], edges[1:]))


def numkong_int8(codes: np.ndarray, targets: np.ndarray, pool: ThreadPoolExecutor) -> Call:
    import numkong

    rows = codes.view(np.int8)
    packed = numkong.dots_pack(_as_int8(targets), dtype="int8")
    out = numkong.Tensor(np.zeros((len(rows), len(targets)), np.int32))
    return _by_rows(pool, len(rows), lambda a, b: numkong.dots_packed(rows, packed, out=out, start_row=a, end_row=b))


def numkong_hamming(codes: np.ndarray, targets: np.ndarray, pool: ThreadPoolExecutor) -> Call:
    import numkong

    bits = np.packbits(targets < 0, axis=1, bitorder="little")
    packed = numkong.hammings_pack(bits, dtype="uint1")
    out = numkong.Tensor(np.zeros((len(codes), len(targets)), np.uint32))
    return _by_rows(
        pool, len(codes), lambda a, b: numkong.hammings_packed(codes, packed, out=out, start_row=a, end_row=b)
    )


def int_mm(codes: np.ndarray, targets: np.ndarray) -> Call:
    rows = torch.from_numpy(codes.view(np.int8))
    columns = torch.from_numpy(_as_int8(targets)).T
    out = torch.empty(BLOCK, len(targets), dtype=torch.int32)

    def run() -> None:
        for part in rows.split(BLOCK):
            torch._int_mm(part, columns, out=out)

    return run


def dequantised(codes: np.ndarray, scales: np.ndarray, targets: np.ndarray) -> Call:
    """QLESS's way: int8 rows to float32, times their scale, then a float32 product."""
    rows, factors = torch.from_numpy(codes.view(np.int8)), torch.from_numpy(scales)[:, None]
    columns = torch.from_numpy(targets).T.contiguous()
    wide, out = torch.empty(BLOCK, rows.shape[1]), torch.empty(BLOCK, len(targets))

    def run() -> None:
        for part, factor in zip(rows.split(BLOCK), factors.split(BLOCK), strict=True):
            wide.copy_(part)
            wide.mul_(factor)
            torch.mm(wide, columns, out=out)

    return run


def _signs(dtype: torch.dtype) -> torch.Tensor:
    """(256, 8): a byte as its eight signs."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy(1 - 2 * bits.astype(np.int8)).to(dtype)


def _unpacked(codes: np.ndarray, columns: torch.Tensor, out: torch.Tensor, dtype: torch.dtype, mm: Any) -> Call:
    table, rows = _signs(dtype), torch.from_numpy(codes)
    n_bytes = codes.shape[1]
    index, wide = torch.empty(BLOCK, n_bytes, dtype=torch.int32), torch.empty(BLOCK * n_bytes, 8, dtype=dtype)

    def run() -> None:
        for part in rows.split(BLOCK):
            index.copy_(part)
            torch.index_select(table, 0, index.view(-1), out=wide)
            mm(wide.view(BLOCK, -1), columns, out=out)

    return run


def unpacked_bf16(codes: np.ndarray, targets: np.ndarray) -> Call:
    columns = torch.from_numpy(targets).T.contiguous().bfloat16()
    out = torch.empty(BLOCK, len(targets), dtype=torch.bfloat16)
    return _unpacked(codes, columns, out, torch.bfloat16, torch.mm)


def unpacked_int_mm(codes: np.ndarray, targets: np.ndarray) -> Call:
    columns = torch.from_numpy(_as_int8(targets)).T
    return _unpacked(codes, columns, torch.empty(BLOCK, len(targets), dtype=torch.int32), torch.int8, torch._int_mm)


@functools.cache
def rabitq_indexes(n: int, proj_dim: int) -> dict[str, Any]:
    """faiss's one-bit indexes of n normal rows."""
    import faiss

    faiss.omp_set_num_threads(2)
    fine = faiss.IndexRaBitQ(proj_dim, faiss.METRIC_INNER_PRODUCT)
    fine.qb = 8
    found = {
        "faiss RaBitQ, qb 8": fine,
        "faiss RaBitQFastScan": faiss.IndexRaBitQFastScan(proj_dim, faiss.METRIC_INNER_PRODUCT),
    }
    some = np.random.default_rng(0).standard_normal((4096, proj_dim), dtype=np.float32)
    for index in found.values():
        index.train(some)
        for _ in range(n // 4096):
            index.add(some)
    return found
