"""Writing, opening, reading and checking a store, against plain files of the same sizes: written and synced, read.

``PYTHONPATH=python python benchmarks/bench_datastore.py [--rows 8192] [--proj-dim 8192] [--rounds 5] [--folder DIR]``
prints one JSON line a case: best, median, p20 and p80 of seconds, CPU seconds of the best round, GB/s of stored bytes,
ratio to the plain file operation of the same round. A and B alternate within each round. Files are in the page cache
when they are read. ``--open 1000`` adds the opening of a store of that many small shards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradsift import Datastore, ProjectionSpec


def plain_write(folder: Path, files: list[bytes]) -> None:
    """A file for every shard, each synced before the next."""
    for index, data in enumerate(files):
        with open(folder / f"flat-{index}", "wb", buffering=0) as file:
            view = memoryview(data)
            while len(view):
                view = view[file.write(view[: 1 << 20]) :]
            os.fsync(file.fileno())


def plain_read(folder: Path) -> int:
    total = 0
    buffer = bytearray(1 << 20)
    for path in folder.glob("flat-*"):
        with open(path, "rb", buffering=0) as file:
            while n := file.readinto(buffer):
                total += n
    return total


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of all threads."""
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - cpu


def bench_open(folder: Path, shards: int, rounds: int) -> None:
    """Opening a store of `shards` shards of 8 rows of 256 numbers, with text ids."""
    path, rows = folder / "many", np.ones((8 * shards, 256), np.float32)
    with Datastore.create(path, spec=ProjectionSpec(256), shard_rows=8) as writer:
        writer.append([f"sample-{i:08d}" for i in range(len(rows))], rows)
    took = sorted(timed(lambda: Datastore.open(path))[0] for _ in range(rounds))
    print(
        json.dumps(
            {"case": "open", "shards": shards, "best_s": round(took[0], 4), "median_s": round(took[rounds // 2], 4)}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--proj-dim", type=int, default=8192)
    parser.add_argument("--batch", type=int, default=64, help="rows an append; the pipeline appends 4096")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="on the disk to measure")
    parser.add_argument("--open", type=int, default=0, metavar="SHARDS")
    options = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((options.rows, options.proj_dim), dtype=np.float32)
    ids = list(range(options.rows))
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    store = folder / "store"

    def write() -> None:
        with Datastore.create(store, spec=ProjectionSpec(options.proj_dim), dtype=options.dtype) as writer:
            for at in range(0, options.rows, options.batch):
                writer.append(ids[at : at + options.batch], rows[at : at + options.batch])

    def scan(verify: str) -> None:
        for block in Datastore.open(store, verify=verify).blocks(256):
            block.rows.max(initial=0)

    seconds: dict[str, list[tuple[float, float]]] = {}
    ratios: dict[str, list[float]] = {}
    stored = 0
    try:
        for _ in range(options.rounds):
            shutil.rmtree(store, ignore_errors=True)
            for path in folder.glob("flat-*"):
                path.unlink()
            took = {"write": timed(write)}
            files = [p.read_bytes() for p in sorted(store.glob("*.gs"))]
            stored = sum(map(len, files))
            took["plain write and fsync"] = timed(lambda files=files: plain_write(folder, files))
            took["plain read"] = timed(lambda: plain_read(folder))
            took["scan, unchecked"] = timed(lambda: scan("none"))
            took["scan, checked"] = timed(lambda: scan("block"))
            took["verify, checksums"] = timed(lambda: Datastore.open(store).verify(full=False))
            took["verify, full"] = timed(lambda: Datastore.open(store).verify(full=True))
            for case, value in took.items():
                base = took["plain write and fsync" if "write" in case else "plain read"]
                seconds.setdefault(case, []).append(value)
                ratios.setdefault(case, []).append(base[0] / value[0])
        if options.open:
            bench_open(folder, options.open, options.rounds)
    finally:
        shutil.rmtree(folder)
    for case, values in seconds.items():
        low, mid, high = np.percentile([wall for wall, _ in values], [20, 50, 80])
        best, cpu = min(values)
        plain, _ = min(seconds["plain write and fsync" if "write" in case else "plain read"])
        record = {
            "case": case,
            "rows": options.rows,
            "proj_dim": options.proj_dim,
            "dtype": options.dtype,
            "batch": options.batch,
            "stored_bytes": stored,
            "best_s": round(best, 4),
            "cpu_s": round(cpu, 4),
            "median_s": round(float(mid), 4),
            "p20_s": round(float(low), 4),
            "p80_s": round(float(high), 4),
            "gb_per_s": round(stored / mid / 1e9, 3),
            "best_gb_per_s": round(stored / best / 1e9, 3),
            "share_of_plain": round(float(np.median(ratios[case])), 3),
            "best_of_plain": round(plain / best, 3),
            "rounds": options.rounds,
            "machine": f"{platform.machine()} {os.cpu_count()} cores {platform.release()}",
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
