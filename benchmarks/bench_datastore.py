"""Writing, reading and checking a store, against a plain synced write and a plain read of the same bytes.

``PYTHONPATH=python python benchmarks/bench_datastore.py [--rows 8192] [--proj-dim 8192] [--rounds 5] [--folder DIR]``
prints one JSON line a case: median, p20 and p80 of seconds, GB/s of stored bytes, ratio to the plain file operation of
the same round. A and B alternate within each round. Files are in the page cache when they are read.
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


def plain_write(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while len(view):
            view = view[file.write(view[: 1 << 20]) :]
        os.fsync(file.fileno())


def plain_read(path: Path) -> int:
    total = 0
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            total += n
    return total


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--proj-dim", type=int, default=8192)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="on the disk to measure")
    options = parser.parse_args()
    rows = np.random.default_rng(0).standard_normal((options.rows, options.proj_dim), dtype=np.float32)
    ids = list(range(options.rows))
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    store, flat = folder / "store", folder / "flat"

    def write() -> None:
        with Datastore.create(store, spec=ProjectionSpec(options.proj_dim), dtype=options.dtype) as writer:
            for at in range(0, options.rows, 64):
                writer.append(ids[at : at + 64], rows[at : at + 64])

    def scan(verify: str) -> None:
        for block in Datastore.open(store, verify=verify).blocks(256):
            block.rows.max(initial=0)

    seconds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    stored = 0
    try:
        for _ in range(options.rounds):
            shutil.rmtree(store, ignore_errors=True)
            flat.unlink(missing_ok=True)
            took = {"write": timed(write)}
            data = b"".join(p.read_bytes() for p in sorted(store.glob("*.gs")))
            stored = len(data)
            took["plain write and fsync"] = timed(lambda data=data: plain_write(flat, data))
            took["plain read"] = timed(lambda: plain_read(flat))
            took["scan, unchecked"] = timed(lambda: scan("none"))
            took["scan, checked"] = timed(lambda: scan("block"))
            took["verify, checksums"] = timed(lambda: Datastore.open(store).verify(full=False))
            took["verify, full"] = timed(lambda: Datastore.open(store).verify(full=True))
            for case, value in took.items():
                base = took["plain write and fsync" if "write" in case else "plain read"]
                seconds.setdefault(case, []).append(value)
                ratios.setdefault(case, []).append(base / value)
    finally:
        shutil.rmtree(folder)
    for case, values in seconds.items():
        low, mid, high = np.percentile(values, [20, 50, 80])
        record = {
            "case": case,
            "rows": options.rows,
            "proj_dim": options.proj_dim,
            "dtype": options.dtype,
            "stored_bytes": stored,
            "median_s": round(float(mid), 4),
            "p20_s": round(float(low), 4),
            "p80_s": round(float(high), 4),
            "gb_per_s": round(stored / mid / 1e9, 3),
            "share_of_plain": round(float(np.median(ratios[case])), 3),
            "rounds": options.rounds,
            "machine": f"{platform.machine()} {os.cpu_count()} cores {platform.release()}",
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
