"""`gradsift.ops.score_rows` against the plain NumPy expression and the machine's read rate; one JSON line a case.

    PYTHONPATH=python python benchmarks/bench_score_rows.py [--rows 16384] [--repeats 15]

A (`score_rows`) and B (``(rows @ targets.T) / norms``, one product of the whole block) alternate; ``read`` sums the
rows once, which is the floor for few columns. 2, 9, 27 and 57 columns are the subtasks of a small run, TyDiQA, BBH and
MMLU; 285 are MMLU's target examples unfolded, what ``reduce="max"`` costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable

import numpy as np

from gradsift.ops import score_rows

PROJ_DIM = 8192
COLUMNS = (1, 2, 9, 27, 57, 285)


def plain(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return (rows @ targets.T) / np.linalg.norm(rows, axis=1, keepdims=True)


def alternate(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of every call, (repeats,) each, the calls taking turns; the first turn is not counted."""
    seconds = {name: np.empty(repeats) for name in calls}
    for turn in range(-1, repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= 0:
                seconds[name][turn] = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16384, help="rows of the block (8192 numbers of float32 each)")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((options.rows, PROJ_DIM), dtype=np.float32)
    for n_columns in COLUMNS:
        targets = rng.standard_normal((n_columns, PROJ_DIM), dtype=np.float32)
        targets /= np.linalg.norm(targets, axis=1, keepdims=True)
        out = np.empty((options.rows, n_columns), np.float32)
        error = np.abs(score_rows(rows[:512], targets) - score_rows(rows[:512], targets, backend="reference")).max()
        seconds = alternate(
            {
                "score_rows": lambda targets=targets, out=out: score_rows(rows, targets, out=out),
                "plain": lambda targets=targets: plain(rows, targets),
                "read": rows.sum,
            },
            options.repeats,
        )
        p20, median, p80 = np.quantile(seconds["score_rows"], [0.2, 0.5, 0.8])
        result = {
            "op": "score_rows",
            "rows": options.rows,
            "proj_dim": PROJ_DIM,
            "columns": n_columns,
            "ms": {"p20": round(p20 * 1e3, 2), "median": round(median * 1e3, 2), "p80": round(p80 * 1e3, 2)},
            "gb_per_s": round(rows.nbytes / median / 1e9, 2),
            "gflop_per_s": round(2 * rows.size * n_columns / median / 1e9, 1),
            "read_time_share": round(float(np.median(seconds["read"]) / median), 3),
            "times_faster_than_plain": round(float(np.median(seconds["plain"] / seconds["score_rows"])), 2),
            "largest_error": float(error),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, numpy {np.__version__}",
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
