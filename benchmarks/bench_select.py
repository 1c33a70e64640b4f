"""`select` from a store on disk: what a user waits for, what memory it takes, and how it keeps up with the disk.

    python -m pytest benchmarks/bench_select.py [--record]

49,152 rows of 8,192 numbers in a store, five targets a subtask, the best 5%. Everything is in the time: checksums of
what is read for the first time, target columns, the scan, choosing, diagnostics. torch and the released code get the
rows as tensors over the mapped files, unchecked, and give positions alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import gradsift
import timing
from gradsift.datastore import Datastore
from gradsift.ops.score_rows import BlockScores, RowScorer

N, P, EACH, FRACTION = 49_152, 8192, 5, 0.05
BLOCK = 4096
DTYPES = ("bfloat16", "int8", "int1")
Call = Callable[[], object]
pytestmark = pytest.mark.benchmark(timer=timing.wall_clock)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, Path]:
    some = np.random.default_rng(0).standard_normal((BLOCK, P), dtype=np.float32)
    folder, found = tmp_path_factory.mktemp("stores"), {}
    for dtype in DTYPES:
        found[dtype] = folder / dtype
        with Datastore.create(found[dtype], spec=gradsift.ProjectionSpec(proj_dim=P), dtype=dtype) as writer:
            for first in range(0, N, BLOCK):
                writer.append(range(first, first + BLOCK), some + np.float32(first / N))
    return found


def targets(columns: int) -> tuple[np.ndarray, list[str]]:
    rows = np.random.default_rng(1).standard_normal((columns * EACH, P), dtype=np.float32)
    return rows, [f"skill {i // EACH}" for i in range(columns * EACH)]


def selecting(store: Datastore, columns: int, *, rescore: Datastore | None = None) -> gradsift.Selection:
    rows, subtasks = targets(columns)
    finer = None if rescore is None else [rescore]
    return gradsift.select([store], [rows], fraction=FRACTION, subtasks=subtasks, rescore=finer)


def first_time(path: Path, columns: int) -> Call:
    def run() -> None:
        with Datastore.open(path) as store:
            selecting(store, columns)

    return run


def mapped(path: Path) -> list[torch.Tensor]:
    blocks = [block.packed for block in Datastore.open(path, verify="none").blocks(BLOCK)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # tensors of files that cannot be written: nothing writes
        return [torch.from_numpy(block.view(np.int16)).view(torch.bfloat16) for block in blocks]


def averaged(columns: int) -> torch.Tensor:
    rows = torch.from_numpy(targets(columns)[0])
    return torch.nn.functional.normalize(rows).reshape(columns, EACH, P).mean(1)


def torch_bf16(path: Path, columns: int) -> Call:
    """Blocks that stay in the cache, targets averaged before; rows are normalised, which costs another pass."""
    blocks, wanted = mapped(path), averaged(columns).bfloat16().T

    def run() -> None:
        best = [(torch.mm(rows, wanted).float() / rows.norm(dim=1, keepdim=True).float()).amax(1) for rows in blocks]
        torch.cat(best).topk(int(FRACTION * N))

    return run


def released(path: Path, columns: int) -> Call:
    """What LESS's matching.py computes of rows that are unit vectors already: every target a column, then means."""
    blocks, wanted = mapped(path), torch.nn.functional.normalize(torch.from_numpy(targets(columns)[0])).T

    def run() -> None:
        scores = torch.mm(torch.cat(blocks).float(), wanted)
        scores.reshape(N, columns, EACH).mean(-1).amax(1).topk(int(FRACTION * N))

    return run


def scan_alone(path: Path, dtype: str, columns: int) -> Call:
    blocks = [(block.packed, block.scales) for block in Datastore.open(path, verify="none").blocks(N)]
    scorer = RowScorer([averaged(columns).numpy()], [1.0], [dtype])

    def run() -> None:
        for rows, scales in blocks:
            out = BlockScores(np.empty(len(rows), np.float32), np.empty(len(rows), np.int32))
            scorer.score([rows], out, scales=[scales])

    return run


@pytest.mark.parametrize("columns", [1, 10, 57])
@pytest.mark.parametrize("dtype", DTYPES)
def test_from_the_page_cache(dtype, columns, stores, record, benchmark):
    store = Datastore.open(stores[dtype])
    calls = {
        "select": lambda: selecting(store, columns),
        "of a store just opened": first_time(stores[dtype], columns),
        "the scan alone": scan_alone(stores[dtype], dtype, columns),
    }
    if dtype == "int1":
        finer = Datastore.open(stores["bfloat16"])
        calls["with the best 5·k from bfloat16"] = lambda: selecting(store, columns, rescore=finer)
    if dtype == "bfloat16":
        calls["torch bf16"] = torch_bf16(stores[dtype], columns)
        calls["released LESS"] = released(stores[dtype], columns)
    times = timing.alternate(calls, timing.wall_clock, rounds=7, benchmark=benchmark)
    record(
        f"{dtype}, {columns} columns",
        ms={name: times.ms(name)["median"] for name in calls},
        times_ours={name: round(times.ratio(name, "select"), 2) for name in calls if name != "select"},
    )


def forget(path: Path) -> None:
    """The files' pages leave the page cache; none is mapped any more."""
    for file in path.glob("*.gs"):
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def read_files(path: Path, room: bytearray) -> None:
    for file in path.glob("*.gs"):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(room):
                pass


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_the_disk(dtype, stores, record, benchmark):
    room = bytearray(8 << 20)

    calls: dict[str, Call] = {
        "select": first_time(stores[dtype], 10),
        "read": lambda: read_files(stores[dtype], room),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(7):
        for name, call in calls.items():
            forget(stores[dtype])
            seconds[name].append(timing.once(call, timing.wall_clock))
    benchmark.pedantic(first_time(stores[dtype], 10))
    times = timing.Times({name: np.array(values) for name, values in seconds.items()})
    record(
        f"{dtype}, 10 columns",
        to_read=round(times.ratio("select", "read"), 2),
        ms={name: times.ms(name)["median"] for name in calls},
        read_gb_per_s=round(sum(f.stat().st_size for f in stores[dtype].glob("*.gs")) / times.median("read") / 1e9, 2),
    )


MEASURE = """
import re, sys, threading, time
import numpy as np, gradsift
from gradsift.datastore import Datastore

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

path, columns, each = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rows = np.random.default_rng(1).standard_normal((columns * each, 8192), dtype=np.float32)
store, peak, done = Datastore.open(path), [0.0], threading.Event()
before = anonymous()
def watch():
    while not done.wait(0.0005):
        peak[0] = max(peak[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
gradsift.select([store], [rows], fraction=0.05, subtasks=[f"skill {i // each}" for i in range(len(rows))])
done.set()
watcher.join()
print(peak[0] - before)
"""


@pytest.mark.parametrize("columns", [1, 10, 57, 128])
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory(dtype, columns, stores, record, benchmark):
    """Resident memory that is no file's, in a process of its own, above what it had with store and targets open."""
    arguments = [sys.executable, "-c", MEASURE, str(stores[dtype]), str(columns), str(EACH)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    said = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment).stdout
    benchmark.pedantic(lambda: None)  # a fixture that is left alone is an error
    found = re.fullmatch(r"([\d.]+)\n", said)
    assert found, said
    record(f"{dtype}, {columns} columns", extra_mib=round(float(found[1]), 1))
