"""Run by test_kill.py: writes two shards and dies at a named call of the second. ``PATH CALL NUMBER FAULT``"""

from __future__ import annotations

import sys

import faulty_os
import numpy as np

import gradsift
from gradsift.datastore import _io

if __name__ == "__main__":
    path, call, number, fault = sys.argv[1:]
    spec = gradsift.StoreSpec(gradsift.ProjectionSpec(proj_dim=256), data={"rows": 8})
    rows = np.arange(8 * 256, dtype=np.float32).reshape(8, 256)
    ids = [f"row {i}" for i in range(8)]
    with gradsift.Datastore.create(path, spec=spec, dtype="float32", resume=True, shard_rows=4) as writer:
        if writer.missing()[0].start == 0:
            writer.append(ids[:4], rows[:4])
        _io.os = faulty_os.FaultyOS((call,), int(number), getattr(faulty_os, fault, None))
        writer.append(ids[4:], rows[4:], first=4)
        if fault == "at_the_end":
            faulty_os.die(None)
