"""What each selector costs: CPU seconds on one core, those beyond `top` with the same `reduce`, and memory allocated.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/selector_costs.py

Prints a table in Markdown. Rows are normal, a tenth of them near copies of others; 20 target examples in 4 subtasks.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np

from gradsift import select

CASES = [
    ("top", {}, "less", {}),
    ("round_robin", {}, "less", {}),
    ("round_robin", {"over": "subtasks"}, "max", {}),
    ("quota", {"by": "length"}, "less", {}),
    ("vote", {}, "less", {}),
    ("random", {}, "less", {}),
    ("top", {}, "less", {"deduplicate": 0.95}),
    ("round_robin", {}, "less", {"deduplicate": 0.95}),
    ("knn_kde", {"neighbours": 200}, "max", {}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--proj-dim", type=int, default=2048)
    parser.add_argument("--fraction", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((options.rows, options.proj_dim), dtype=np.float32)
    copies = rng.choice(options.rows, options.rows // 10, replace=False)
    pool[copies] = pool[rng.permutation(copies)] + 0.1 * pool[copies]
    targets = pool[rng.choice(options.rows, 20)] + 3 * rng.standard_normal((20, options.proj_dim), dtype=np.float32)
    subtasks = [f"subtask {i % 4}" for i in range(20)]
    lengths = rng.integers(10, 500, options.rows)

    def run(selector: str, chosen: dict[str, object], reduce: str, more: dict[str, float]) -> tuple[float, float, int]:
        best = np.inf
        for _ in range(options.rounds):
            start = time.process_time()
            result = select(
                [pool], [targets], fraction=options.fraction, selector=selector, options=chosen, reduce=reduce,
                subtasks=subtasks, lengths=lengths, **more,
            )  # fmt: skip
            best = min(best, time.process_time() - start)
        tracemalloc.start()
        select(
            [pool], [targets], fraction=options.fraction, selector=selector, options=chosen, reduce=reduce,
            subtasks=subtasks, lengths=lengths, **more,
        )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        return best, peak, len(result)

    print(f"{options.rows} rows of {options.proj_dim} float32 numbers, fraction {options.fraction}")
    print("| selector | CPU seconds | beyond `top` with the same `reduce` | MiB | taken |")
    print("| --- | --- | --- | --- | --- |")
    base = {reduce: run("top", {}, reduce, {})[0] for reduce in ("less", "max")}
    for selector, chosen, reduce, more in CASES:
        seconds, peak, taken = run(selector, chosen, reduce, more)
        said = ", ".join([f"`{selector}`", *(f"{k} = {v}" for k, v in (chosen | more).items()), f"reduce = {reduce}"])
        print(f"| {said} | {seconds:.2f} | {seconds - base[reduce]:+.2f} | {peak:.0f} | {taken} |")


if __name__ == "__main__":
    main()
