"""Writes docs/performance.md from benchmarks/results/*.json.

    python benchmarks/make_performance.py

A goal's verdict is computed from the recorded cases; a group that was not recorded on a machine is said to be missing.
"""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_rooflines
import performance_tables

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "performance.md"
Cases = list[dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A figure of one group: `value` of its cases should be at most, or at least, `limit`."""

    topic: str
    group: str
    what: str
    value: Callable[[Cases], float]
    limit: float
    at_most: bool = True

    def line(self, runs: dict[str, Any]) -> str:
        sign = "≤" if self.at_most else "≥"
        goal = f"{sign} {self.limit:g}"
        if self.group not in runs:
            return f"| {self.what} | {goal} | | not measured |"
        measured = self.value(runs[self.group]["cases"])
        return f"| {self.what} | {goal} | {measured:.3g} | {'met' if self.met(measured) else '**missed**'} |"

    def met(self, measured: float) -> bool:
        return measured <= self.limit if self.at_most else measured >= self.limit


def _mean(*keys: str) -> Callable[[Cases], float]:
    """Geometric mean over the cases of the figure at a path of keys."""

    def value(case: dict[str, Any]) -> float:
        return float(functools.reduce(operator.getitem, keys, case))

    return lambda cases: math.exp(sum(math.log(value(case)) for case in cases) / len(cases))


def _worst(key: str) -> Callable[[Cases], float]:
    return lambda cases: max(case[key] for case in cases)


def _one(case_name: str, key: str) -> Callable[[Cases], float]:
    return lambda cases: next(float(case[key]) for case in cases if case["case"] == case_name)


def _ms(case_name: str) -> Callable[[Cases], float]:
    return lambda cases: next(float(case["ours_ms"]["median"]) for case in cases if case["case"] == case_name)


def _peer(case_name: str, peer: str) -> Callable[[Cases], float]:
    return lambda cases: next(float(case["times_ours"][peer]) for case in cases if case["case"] == case_name)


def _equal(case_name: str, peer: str) -> Callable[[Cases], float]:
    """A peer's time to that of our scores of the same precision."""

    def value(cases: Cases) -> float:
        ms = next(case["ms"] for case in cases if case["case"] == case_name)
        return round(float(ms[peer]) / float(ms["ours, targets in bfloat16"]), 2)

    return value


def _worst_gamma(cases: Cases) -> float:
    return max(ratio for case in cases for kind, ratio in case["ratios"].items() if kind != "adam, with norms")


LINEAR, ROWS, COLLECTOR = "project_linear", "project_rows", "collector"
FLOATS, QUANTISED, SELECT = "score_rows", "score_quantised", "select"
GOALS = (
    Goal(LINEAR, "fp32_adam_to_gemm", "fp32, exact Adam: time to the best library product that only forms G, "
         "geometric mean of the shapes", _mean("ratio"), 1.05),
    Goal(LINEAR, "fp32_adam_to_gemm", "fp32, exact Adam, worst shape", _worst("ratio"), 1.3),
    Goal(LINEAR, "bf16_adam_to_gemm", "bf16 inputs, exact Adam: time to oneDNN's bf16 product, geometric mean",
         _mean("ratio"), 1.15),
    Goal(LINEAR, "two_threads_to_one", "two threads: times as fast as one, geometric mean", _mean("speedup"), 1.8,
         False),
    *(Goal(LINEAR, "gamma_to_sgd", f"Γ `{kind}` at T = 256: time to `sgd`'s, geometric mean", _mean("ratios", kind),
           1.15)
      for kind in ("adam", "less", "affine", "second_moment", "sign")),
    Goal(LINEAR, "gamma_to_sgd", "the slowest Γ on its worst shape", _worst_gamma, 1.15),
    Goal(ROWS, "from_memory_to_read", "[8, 1e7] from memory, one thread: share of the read bandwidth",
         _one("[8, 1e7] matrix, 1 thread", "share"), 0.8, False),
    Goal(ROWS, "from_memory_to_read", "[8, 1e7] from memory, two threads", _one("[8, 1e7] matrix, 2 threads", "share"),
         0.8, False),
    Goal(ROWS, "from_memory_to_read", "[1, 1e7] from memory, two threads", _one("[1, 1e7] matrix, 2 threads", "share"),
         0.8, False),
    Goal(ROWS, "from_cache", "from the cache, without Γ: billions of numbers a second and core",
         _one("one row of 512 KiB, 64 times", "numbers_per_ns"), 8, False),
    *(Goal(COLLECTOR, dtype, f"collecting, LoRA r = {rank}, {dtype}, {layout} batches: time to the plain forward and "
           "backward", _one(f"r{rank} {dtype}", f"{layout}_to_plain"), 1.10)
      for dtype in ("bf16", "fp32") for rank in (16, 128) for layout in ("packed", "padded")),
    Goal(COLLECTOR, "bf16", "times as fast as the LESS recipe, r = 16", _one("r16 bf16", "to_less"), 15, False),
    Goal(COLLECTOR, "bf16", "times as fast as the LESS recipe, r = 128", _one("r128 bf16", "to_less"), 100, False),
    Goal(COLLECTOR, "bf16", "times as fast as the best user's torch, r = 128", _one("r128 bf16", "to_user"), 1.2,
         False),
    Goal(COLLECTOR, "bf16", "times as fast as the best user's torch, r = 8", _one("r8 bf16", "to_user"), 1.0, False),
    Goal(COLLECTOR, "full_parameters", "collecting for all linear layers: time to the plain pass that forms their "
         "gradients, packed", _one("all linear layers bf16", "packed_to_plain"), 1.35),
    Goal(COLLECTOR, "full_parameters", "collecting for all linear layers, padded",
         _one("all linear layers bf16", "padded_to_plain"), 1.35),
    *(Goal(FLOATS, "to_floor", f"scoring {dtype} rows, {columns} columns: time to the larger of one read "
           "and the operations at the library product's rate", _one(f"{dtype}, {columns} columns", "to_floor"), 1.4)
      for dtype in ("bfloat16", "float16", "float32") for columns in (1, 4, 10, 20, 32, 57, 128)),
    *(Goal(FLOATS, "to_floor", f"scoring bfloat16 rows, {columns} columns, targets in bfloat16 too",
           _one(f"bfloat16, {columns} columns", "rounded_to_floor"), 1.4)
      for columns in (1, 4, 10, 20, 32, 57, 128)),
    *(Goal(FLOATS, "peers_to_ours", f"{peer}'s time to ours with targets in bfloat16 as it has them, {columns} columns",
           _equal(f"{columns} columns", peer), limit, False)
      for peer, limits in (("torch bf16", (2, 2, 2, 1)), ("numkong bf16", (1, 1, 1, 1)))
      for columns, limit in zip((10, 20, 32, 57), limits, strict=True)),
    *(Goal(FLOATS, "peers_to_ours", f"{peer}'s time to ours, whose targets keep more, {columns} columns",
           _peer(f"{columns} columns", peer), 1, False)
      for peer in ("torch bf16", "numkong bf16") for columns in (10, 20, 32, 57)),
    *(Goal(FLOATS, "peers_to_ours", f"the released LESS code's time to ours, {columns} columns",
           _peer(f"{columns} columns", "released LESS"), 20, False) for columns in (10, 20, 32, 57)),
    *(Goal(FLOATS, "peers_to_ours", f"{peer}'s time to ours, 20 columns",
           _peer("20 columns", f"{peer}, best 100 a target"), 20, False) for peer in ("faiss", "usearch exact")),
    *(Goal(QUANTISED, "to_floor", f"scoring int8 rows, {columns} columns: time to the larger of one read and the "
           "operations at the int8 product's rate", _one(f"int8, {columns} columns", "to_floor"), 1.4)
      for columns in (1, 10, 16, 32, 64, 100, 128)),
    *(Goal(QUANTISED, "bits_to_int8", f"scoring {dtype} rows, {columns} columns: times as many rows a second as int8",
           _one(f"{columns} columns", f"{dtype}_times_int8"), limit, False)
      for dtype, limit in (("int4", 1.5), ("int1", 3)) for columns in (1, 10, 16)),
    Goal(QUANTISED, "to_floor", "scoring 1-bit rows against finer targets, 100 columns: time to the operations at the "
         "int8 product's rate", _one("int1, 100 columns", "to_floor"), 1.4),
    Goal(QUANTISED, "to_floor", "scoring 1-bit rows against finer targets, 100 columns: milliseconds, 1.4 times the 70 "
         "that int8 instructions take at their peak", _ms("int1, 100 columns"), 98),
    Goal(QUANTISED, "peers_to_ours", "numkong's time to ours, int8, 10 columns",
         _peer("int8, 10 columns", "numkong int8"), 1, False),
    Goal(QUANTISED, "peers_to_ours", "numkong's time to ours, int8, 100 columns",
         _peer("int8, 100 columns", "numkong int8"), 1, False),
    *(Goal(SELECT, "from_the_page_cache", f"{peer}'s time, of rows in memory and unchecked, to that of all of "
           f"`select`, {columns} columns", _peer(f"bfloat16, {columns} columns", peer), limit, False)
      for peer, limit in (("torch bf16", 1), ("released LESS", 20)) for columns in (1, 10, 57)),
    Goal(SELECT, "memory", "`select`: MiB beside rows and targets, at most (64 MB)", _worst("extra_mib"), 61),
    *(Goal(SELECT, "from_the_disk", f"`select` from the disk, {dtype} rows: time to reading the files",
           _one(f"{dtype}, 10 columns", "to_read"), 1) for dtype in ("bfloat16", "int8", "int1")),
)  # fmt: skip

# Goals that no benchmark of this page answers: what, goal, where to look, verdict.
ELSEWHERE = (
    ("1-bit rows against finer targets: recall of the true top 5%, by the scan alone", "≥ 0.9",
     "[results/quantised-rows.md](results/quantised-rows.md)", "**missed**"),
    ("the same, the best 5·k scored again from the rows", "≥ 0.9",
     "[results/quantised-rows.md](results/quantised-rows.md)", "met"),
)  # fmt: skip

INTRODUCTION = """# Performance

<!-- Written by `python benchmarks/make_performance.py` from benchmarks/results; change those, not this. -->

Ratios of things that ran in turn in one process, so that whatever slowed one slowed the other. CONTRIBUTING.md has the
commands. `project_linear` on one thread, and `project_rows` from the cache and under every Γ, are timed in CPU time of
the process, everything else in wall-clock time; medians over rounds. Peers get their best form: every library and
layout is tried for each shape, with outputs allocated before, blocks that stay in the cache, and the environment as it
comes. A call in wall-clock time begins 20 ms after the one before, when no library's threads spin any more.

Load is the machine's load average over a minute, before the first and after the last case of a group; the second counts
the group's own threads. Wall-clock figures taken beside other work, of two threads above all, say little.
"""


def load(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """machine → topic → group → run."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        name, _, topic = path.stem.rpartition("-")
        found.setdefault(name, {})[topic] = json.loads(path.read_text(encoding="utf-8"))
    return found


def page(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    parts = [INTRODUCTION]
    if not results:
        parts.append("Nothing has been recorded yet. The goals:\n")
        parts.append(_goal_table({}))
    for name, topics in results.items():
        parts += [
            f"## {name}\n",
            performance_tables.machine(topics),
            "### Goals\n",
            _goal_table(topics),
            _losses(topics),
        ]
        for topic in performance_tables.TABLES:
            parts += performance_tables.of_topic(topic, topics.get(topic, {}))
    parts.append(gpu_rooflines.section())
    return "\n".join(parts).rstrip() + "\n"


def _goal_table(topics: dict[str, dict[str, Any]]) -> str:
    lines = ["| what | goal | measured | |", "| --- | --- | --- | --- |"]
    lines += [goal.line(topics.get(goal.topic, {})) for goal in GOALS]
    lines += [f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in ELSEWHERE]
    return "\n".join(lines) + "\n"


def _losses(topics: dict[str, dict[str, Any]]) -> str:
    """What to expect where we are slower than we want to be, or than others."""
    lines = []
    for goal in GOALS:
        run = topics.get(goal.topic, {}).get(goal.group)
        if run and not goal.met(value := goal.value(run["cases"])):
            lines.append(f"- {goal.what}: {value:.3g}, where {goal.limit:g} was wanted.")
    lines += [
        f"- {what}: {where}." for what, _, where, verdict in ELSEWHERE if QUANTISED in topics and "missed" in verdict
    ]
    for group in ("fp32_adam_to_gemm", "bf16_adam_to_gemm"):
        cases = topics.get(LINEAR, {}).get(group, {}).get("cases", [])
        slower = sorted((case for case in cases if case["ratio"] > 1.3), key=lambda case: -case["ratio"])
        if slower:
            listed = ", ".join(f"{case['case']} ({case['ratio']:.2f})" for case in slower[:8])
            more = f" and {len(slower) - 8} more" if len(slower) > 8 else ""
            lines.append(f"- `{group}`, shapes over 1.3: {listed}{more}.")
    if not lines:
        return ""
    return "### Where we lose\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(load(RESULTS)), encoding="utf-8")
    print(f"wrote {PAGE}")
