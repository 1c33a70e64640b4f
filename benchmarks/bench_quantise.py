"""What quantised rows keep of the ranking, and how fast they are packed and unpacked; Markdown tables on stdout.

    PYTHONPATH=python:benchmarks OMP_NUM_THREADS=1 python benchmarks/bench_quantise.py [--run RUN_DIR] [--train]

Recall: the share of the best 5% by exact scores that is among the best 5% by scores of quantised candidates against
float targets. Gain kept: by how much the exact scores of the chosen exceed the pool's mean, as a share of what the
exact best exceed it by. ``--run``: rows of the run's stores, influence over all checkpoints, for each target alone and
the best of all. ``--train``: rows of a small model trained on the spot (byte_llama.py), mean of cosines in each of six
subtasks, the best of all; about a minute of CPU time. Synthetic rows are 4,000 of 1,024 numbers, noise of Student's t
and a planted cosine of standard deviation 0.06. Each is averaged over rotations. Beside them the scheme of QLESS (arXiv
2502.01703): rows of norm one, one scale for all from the largest magnitude there is, no rotation. Then the same rows
scored as they are stored, their targets held as integers; and what is found when the best 5·k of those are scored again
by the exact rows, as ``select(…, rescore=)`` does.

Speed: rows of 8,192 numbers, one thread, native against the NumPy reference in turn; GB of float32 rows a second of CPU
time, median of the rounds.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import timing
from gradsift import Datastore, ops
from gradsift.ops.score_rows import BlockScores, RowScorer
from gradsift.selection.rescoring import RESCORED_PER_SELECTED

BITS = (8, 4, 1)
Scheme = Callable[[np.ndarray, int, int], np.ndarray]  # rows, bits, seed → the rows that are left of them


def rotated(rows: np.ndarray, bits: int, seed: int) -> np.ndarray:
    found = ops.quantise_rows(rows, bits=bits, seed=seed)
    return ops.dequantise_rows(found.codes, found.scales, bits=bits, seed=seed)


def qless(rows: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """One scale for all rows; `seed` is not used."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    if bits == 1:
        return np.where(unit < 0, np.float32(-1), np.float32(1))
    largest = 2 ** (bits - 1) - 1
    codes: np.ndarray = np.rint(unit * (largest / np.abs(unit).max()))
    return codes


def best(scores: np.ndarray) -> set[int]:
    return set(np.argsort(-scores, kind="stable")[: math.ceil(0.05 * len(scores))].tolist())


def kept(want: np.ndarray, got: np.ndarray) -> tuple[float, float]:
    """Recall and gain."""
    exact, chosen = best(want), best(got)
    gain = (want[list(chosen)].mean() - want.mean()) / (want[list(exact)].mean() - want.mean())
    return len(exact & chosen) / len(exact), float(gain)


def rescored(want: np.ndarray, got: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`want`, and its scores of the best 5·k by `got` with all others below them."""
    again = np.argsort(-got, kind="stable")[: RESCORED_PER_SELECTED * len(best(want))]
    known = np.full_like(want, -np.inf)
    known[again] = want[again]
    return want, known


class Pool:
    """Candidates and target columns at each checkpoint; `best_of` says which columns make up a ranking."""

    def __init__(
        self,
        name: str,
        pools: list[np.ndarray],
        columns: list[np.ndarray],
        weights: np.ndarray,
        best_of: list[list[int]],
    ) -> None:
        self.name = f"{name}, {len(pools[0])} rows"
        self.pools, self.columns, self.weights, self.best_of = pools, columns, weights, best_of

    def influence(self, pools: list[np.ndarray]) -> np.ndarray:
        parts = [ops.score_rows(np.asarray(p, np.float32), c) for p, c in zip(pools, self.columns, strict=True)]
        return np.tensordot(self.weights, np.array(parts), 1)

    def kept(self, scheme: Scheme, bits: int, seed: int) -> list[tuple[float, float]]:
        want, got = self.influence(self.pools), self.influence([scheme(pool, bits, seed) for pool in self.pools])
        return [kept(want[:, of].max(axis=1), got[:, of].max(axis=1)) for of in self.best_of]

    def kept_by_integers(self, bits: int, seed: int) -> tuple[list[tuple[float, float]], list[float], float]:
        """The same of codes scored as they are stored, with targets held as integers; recall when the best 5·k of
        those are scored again by the exact rows; and the largest error of a score, as a share of the norm of its
        column, against the dequantised rows in float64."""
        found, error = 0.0, 0.0
        for pool, columns, weight in zip(self.pools, self.columns, self.weights, strict=True):
            rows = ops.quantise_rows(np.asarray(pool, np.float32), bits=bits, seed=seed)
            each = []
            for backend in ("reference", "cpu"):
                out = BlockScores(scores=np.empty((len(pool), len(columns)), np.float32))
                scorer = RowScorer([columns], [1.0], [f"int{bits}"], seeds=[seed], backend=backend)
                scorer.score([rows.codes], out, scales=[rows.scales])
                each.append(np.asarray(out.scores))
            error = max(error, float(np.nanmax(np.abs(each[1] - each[0]) / np.linalg.norm(columns, axis=1))))
            found = found + weight * each[1]
        pairs = [(self.influence(self.pools)[:, of].max(axis=1), found[:, of].max(axis=1)) for of in self.best_of]
        return [kept(want, got) for want, got in pairs], [kept(*rescored(*pair))[0] for pair in pairs], error


def mean_of_units(rows: np.ndarray) -> np.ndarray:
    """Its product with a unit row is the mean of the cosines."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)


def pool_of_run(path: Path) -> Pool:
    folders = sorted((path / "stores").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    stores = [Datastore.open(folder / "pool") for folder in folders]
    rates = np.array([store.spec.checkpoint["learning_rate"] for store in stores])
    names = sorted(p.name for p in folders[0].glob("target-*") if (p / "spec.json").is_file())
    columns = [
        np.array([mean_of_units(Datastore.open(folder / name).rows()) for name in names], np.float32)
        for folder in folders
    ]
    rankings = [*([j] for j in range(len(names))), list(range(len(names)))]
    return Pool("run", [store.rows() for store in stores], columns, rates / rates.sum(), rankings)


def pool_of_small_model(candidates: int, steps: int) -> Pool:
    import byte_llama

    rows, targets = byte_llama.sketches(candidates, steps)
    parts = np.split(targets, len(byte_llama.SUBTASKS))
    columns = np.array([mean_of_units(part) for part in parts], np.float32)
    return Pool("small model", [rows], [columns], np.ones(1), [list(range(len(parts)))])


def synthetic(
    freedom: float, scheme: Scheme, bits: int, seed: int, n: int = 4000, proj_dim: int = 1024
) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=proj_dim)
    target /= np.linalg.norm(target)
    noise = rng.standard_t(freedom, (n, proj_dim))
    length = np.linalg.norm(noise, axis=1, keepdims=True)
    rows = (noise + 0.06 * length * rng.normal(size=(n, 1)) * target).astype(np.float32)
    column = target.astype(np.float32)[None]
    got = scheme(rows, bits, seed).astype(np.float32)
    return [kept(ops.score_rows(rows, column)[:, 0], ops.score_rows(got, column)[:, 0])]


def print_recalls(pools: list[Pool], rotations: int) -> None:
    sources: list[tuple[str, Callable[[Scheme, int, int], list[tuple[float, float]]], int]] = []
    sources += [(pool.name, pool.kept, rotations) for pool in pools]
    sources += [(f"synthetic, t({f})", partial(synthetic, f), 5) for f in (1000, 3, 2.1)]
    print("| rows | bits | recall, mean | lowest | gain kept | QLESS's scale: recall | gain kept |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, measure, seeds in sources:
        for bits in BITS:
            ours = np.array([pair for seed in range(seeds) for pair in measure(rotated, bits, seed)])
            theirs = np.array([pair for seed in range(min(seeds, 5)) for pair in measure(qless, bits, seed)])
            figures = (ours[:, 0].mean(), ours[:, 0].min(), ours[:, 1].mean(), *theirs.mean(axis=0))
            print(f"| {name} | {bits} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |", flush=True)


def print_integers(pools: list[Pool], rotations: int) -> None:
    print(
        "\n| rows | bits | recall, float targets | integer targets | best 5·k scored again (lowest) | largest error |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for pool in pools:
        for bits in BITS:
            floats = np.array([pair for seed in range(rotations) for pair in pool.kept(rotated, bits, seed)])
            found = [pool.kept_by_integers(bits, seed) for seed in range(rotations)]
            integers = np.array([pair for pairs, _, _ in found for pair in pairs])
            again = np.array([recall for _, recalls, _ in found for recall in recalls])
            error = max(error for _, _, error in found)
            print(
                f"| {pool.name} | {bits} | {floats[:, 0].mean():.4f} | {integers[:, 0].mean():.4f} | {again.mean():.4f}"
                f" ({again.min():.3f}) | {error:.1e} |"
            )


def print_speeds(rounds: int) -> None:
    rows = np.random.default_rng(0).standard_normal((64, 8192), dtype=np.float32)
    out = np.empty_like(rows)
    print("\n| bits | | native | p20 … p80 | NumPy |\n| --- | --- | --- | --- | --- |")
    for bits in BITS:
        found = ops.quantise_rows(rows, bits=bits, seed=1)
        calls: dict[str, Callable[[], object]] = {}
        for backend in ("cpu", "reference"):
            calls[f"packed {backend}"] = partial(ops.quantise_rows, rows, bits=bits, seed=1, backend=backend, threads=1)
            calls[f"unpacked {backend}"] = partial(
                ops.dequantise_rows, found.codes, found.scales, bits=bits, seed=1, out=out, backend=backend, threads=1
            )
        times = timing.alternate(calls, timing.cpu_clock, rounds=rounds)
        for what in ("packed", "unpacked"):
            p20, median, p80 = rows.nbytes / 1e9 / np.percentile(times.seconds[f"{what} cpu"], (80, 50, 20))
            slow = rows.nbytes / 1e9 / times.median(f"{what} reference")
            print(f"| {bits} | {what} | {median:.2f} | {p20:.2f} … {p80:.2f} | {slow:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="run_dir of a finished `gradsift collect`")
    parser.add_argument("--train", action="store_true", help="train the small model and take its rows")
    parser.add_argument("--candidates", type=int, default=6144, help="of the small model")
    parser.add_argument("--steps", type=int, default=80, help="of its training")
    parser.add_argument("--rotations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    pools = [] if options.run is None else [pool_of_run(options.run)]
    if options.train:
        pools.append(pool_of_small_model(options.candidates, options.steps))
    print_recalls(pools, options.rotations)
    print_integers(pools, options.rotations)
    print_speeds(options.rounds)
    print(f"\n{platform.machine()}, {os.cpu_count()} CPUs, numpy {np.__version__}")


if __name__ == "__main__":
    main()
