"""Things timed in turn in one run, so that a busy machine slows them alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Call = Callable[[], object]
Clock = Callable[[], float]

# Threads of OpenMP spin for milliseconds after a parallel product, on a core that the next call wants.
PAUSE_SECONDS = 0.02


def cpu_clock() -> float:
    """Seconds this process has computed, all threads: for calls on one thread, where waiting for a core is not work."""
    return time.process_time()


def wall_clock() -> float:
    """Seconds that have passed: for calls on several threads."""
    return time.perf_counter()


def once(call: Call, clock: Clock) -> float:
    if clock is wall_clock:
        time.sleep(PAUSE_SECONDS)
    start = clock()
    call()
    return clock() - start


@dataclass(frozen=True)
class Times:
    """Seconds of each call in each round, the calls of a round having taken turns."""

    seconds: dict[str, np.ndarray]

    def ms(self, name: str) -> dict[str, float]:
        p20, median, p80 = np.percentile(self.seconds[name], [20, 50, 80]) * 1e3
        return {"p20": _short(p20), "median": _short(median), "p80": _short(p80)}

    def median(self, name: str) -> float:
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, to: str) -> float:
        """Median over the rounds of `name`'s time to that of `to` in the same round."""
        return float(np.median(self.seconds[name] / self.seconds[to]))

    def best(self, names: list[str]) -> str:
        """The call of `names` with the shortest median."""
        return min(names, key=self.median)


def alternate(
    calls: dict[str, Call],
    clock: Clock,
    *,
    rounds: int | None = None,
    seconds: float = 1.0,
    warm: bool = True,
    benchmark: Any = None,
) -> Times:
    """Runs `calls` in turn, the first last and the others in another order each round; `warm`: after a turn that is not
    counted.

    Without `rounds`, as many as fit into `seconds`, from 5 to 60. With `benchmark`, pytest-benchmark's fixture, the
    first of `calls` is what it measures and lists, by a timer that must be `clock`; the others run between its rounds.
    """
    first, *others = calls
    if warm:
        for call in calls.values():
            call()
    if rounds is None:
        spent = sum(once(call, time.perf_counter) for call in calls.values())
        rounds = int(np.clip(seconds / max(spent, 1e-6), 5, 60))
    taken: dict[str, list[float]] = {name: [] for name in calls}

    def turn_of_the_others() -> None:
        n = len(taken[others[0]]) if others else 0
        for i in range(len(others)):
            name = others[(i + n) % len(others)]
            taken[name].append(once(calls[name], clock))
        if clock is wall_clock:
            time.sleep(PAUSE_SECONDS)  # as `once`, before the first of `calls`

    if benchmark is None or benchmark.disabled:
        if benchmark is not None:
            benchmark.pedantic(calls[first])  # once, untimed: a fixture that is left alone is an error
        for _ in range(rounds):
            turn_of_the_others()
            taken[first].append(once(calls[first], clock))
    else:
        benchmark.pedantic(calls[first], setup=turn_of_the_others, rounds=rounds)
        taken[first] = list(benchmark.stats.stats.data)
    return Times({name: np.array(values[:rounds]) for name, values in taken.items()})


def fastest(calls: dict[str, Call], clock: Clock, keep: int) -> dict[str, Call]:
    """The `keep` calls with the shortest of three times, for a longer race."""
    for call in calls.values():
        call()
    best = {name: min(once(call, clock) for _ in range(3)) for name, call in calls.items()}
    return {name: calls[name] for name in sorted(best, key=best.__getitem__)[:keep]}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
