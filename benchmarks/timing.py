"""Two things timed in turn in one run, so that a busy machine slows both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import numpy as np


def alternate(calls: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, np.ndarray]:
    """CPU seconds of each call in each of `rounds` rounds, the calls taking turns after a warm-up.

    Of this thread, so for calls that use one: time in which the machine did something else does not count.
    """
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            seconds[name].append(time.thread_time() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def report(case: str, work: float, unit: str, seconds: dict[str, np.ndarray], first: str) -> None:
    """One JSON line: `work` a second of each call (median, p20, p80) and how many times `first` is faster (median)."""
    rates = {
        name: [round(float(work / np.percentile(values, p)), 2) for p in (50, 80, 20)]
        for name, values in seconds.items()
    }
    ratios = {name: round(float(np.median(v / seconds[first])), 2) for name, v in seconds.items() if name != first}
    print(json.dumps({"case": case, "unit": unit, "median_p20_p80": rates, f"{first}_faster_by": ratios}))
