"""Times on a GPU: what every `gpu_<op>.py` beside this file yields, and how it is measured.

Each of them has ``cases(quick: bool) -> Iterator[Case]``; `gpu_first_run.py` runs them all. A case holds our call and
its peers, which give equal results. Calls are timed by CUDA events, in turns, over several sets of operands that are
together larger than the cache; the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

# An operand set is used again only after so much else has gone through the cache (H100: 50 MB, B200: 126 MB).
_ROTATED_BYTES = 256 << 20
_SECONDS = 0.25


@dataclass
class Case:
    """One shape of one op.

    Attributes
    ----------
    op, name : str
        ``"project_linear"``, ``"4096x128, T = 512, B = 16, bfloat16, adam"``.
    bytes, operations : int
        That any implementation must at least move through device memory, and carry out.
    rate : str
        Which ceiling `operations` go by: a key of `Ceilings.operations`.
    calls : name → function of an operand set; ``"gradsift"`` is ours.
    operands : sets of operands
        Equal in shape, each in memory of its own; see `copies_needed`.
    per : how many samples or rows a call does, and what they are called
    """

    op: str
    name: str
    bytes: int
    operations: int
    rate: str
    calls: dict[str, Callable[[Any], object]]
    operands: Sequence[Any]
    per: tuple[int, str] = (1, "call")


@dataclass(frozen=True)
class Ceilings:
    """What this card does at its best, measured: bytes a second, and operations a second by kind of number."""

    bytes: float
    operations: dict[str, float] = field(default_factory=dict)

    def floor(self, case: Case) -> float:
        """Seconds that no implementation undercuts."""
        return max(case.bytes / self.bytes, case.operations / self.operations[case.rate])


def copies_needed(operand_bytes: int) -> int:
    """Sets of operands that are together larger than any cache."""
    return max(2, -(-_ROTATED_BYTES // max(1, operand_bytes)))


def measure(case: Case, seconds: float = _SECONDS) -> dict[str, float]:
    """Median seconds a call, by name. Every call runs on every set once before it is timed."""
    for call in case.calls.values():
        for operands in case.operands:
            call(operands)
    torch.cuda.synchronize()
    times: dict[str, list[float]] = {name: [] for name in case.calls}
    rounds = 0
    while rounds < 5 or (sum(map(sum, times.values())) < seconds and rounds < 200):
        for name, call in case.calls.items():
            times[name].append(_once(call, case.operands, rounds))
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def _once(call: Callable[[Any], object], operands: Sequence[Any], turn: int) -> float:
    """Mean over as many calls as fill 1 ms, so that an event's own granularity does not count."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    repeats = 1
    while True:
        begin.record()
        for i in range(repeats):
            call(operands[(turn + i) % len(operands)])
        end.record()
        end.synchronize()
        milliseconds = begin.elapsed_time(end)
        if milliseconds > 1.0 or repeats >= 64:
            return milliseconds / 1e3 / repeats
        repeats *= 4


def ceilings() -> Ceilings:
    """Of the current device: a large copy, counting bytes read and written, and large matrix products."""
    rates = {name: _product_rate(getattr(torch, name)) for name in ("bfloat16", "float16", "float32")}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        # A product of float32 as three of tf32 parts, where that is faster than the units for float32.
        rates["tf32x3"] = max(rates["float32"], _product_rate(torch.float32) / 3)
    finally:
        torch.set_float32_matmul_precision(before)
    return Ceilings(_copy_rate(), rates | {"int8": _int8_rate()})


def _copy_rate() -> float:
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copy = Case("copy", "1 GiB", 2 << 30, 0, "", {"torch": lambda _: target.copy_(source)}, [None])
    return copy.bytes / measure(copy)["torch"]


def _product_rate(dtype: torch.dtype) -> float:
    n = 4096 if dtype == torch.float32 else 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
    c = torch.empty_like(a)
    product = Case("product", str(dtype), 0, 2 * n**3, "", {"torch": lambda _: torch.mm(a, b, out=c)}, [None])
    return product.operations / measure(product)["torch"]


def _int8_rate() -> float:
    n = 8192
    a, b = (torch.randint(-128, 128, (n, n), device="cuda", dtype=torch.int8) for _ in range(2))
    product = Case("product", "int8", 0, 2 * n**3, "", {"torch": lambda _: torch._int_mm(a, b.t())}, [None])
    return product.operations / measure(product)["torch"]
