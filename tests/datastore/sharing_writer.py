"""Run by test_several_writers.py: fills what is missing of a store, a claimed unit at a time. ``PATH LOG [DIE_AT]``

Appends a line for every unit it makes to LOG. With DIE_AT it waits for ever in the unit that begins there, once it
has claimed it, for the test to kill it.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

import gradsift

ROWS, SHARD_ROWS = 40, 4


def rows_of(part: range) -> np.ndarray:
    return np.random.default_rng(part.start).standard_normal((len(part), 256), dtype=np.float32)


def fill(path: str, log: str, die_at: int | None) -> None:
    spec = gradsift.StoreSpec(gradsift.ProjectionSpec(proj_dim=256), data={"rows": ROWS})
    with gradsift.Datastore.create(path, spec=spec, resume=True, shard_rows=SHARD_ROWS) as writer:
        while writer.missing():
            for start in range(0, ROWS, SHARD_ROWS):
                unit = range(start, start + SHARD_ROWS)
                claim = writer.claim(unit)
                if claim is None:
                    continue
                with claim:
                    writer.refresh()
                    if any(start in gap for gap in writer.missing()):
                        with open(log, "a", encoding="utf-8") as file:
                            file.write(f"{os.getpid()} {start}\n")
                        while start == die_at:
                            time.sleep(1)
                        time.sleep(0.02)
                        writer.append([f"id {i}" for i in unit], rows_of(unit), first=start)
            writer.refresh()
            time.sleep(0.01)


if __name__ == "__main__":
    fill(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
