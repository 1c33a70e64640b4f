"""One whole job of a datastore, small enough to be done thousands of times, and what must hold after any part of it."""

from __future__ import annotations

import numpy as np

from gradsift import Datastore, ProjectionSpec, StoreSpec

SPEC = StoreSpec(ProjectionSpec(proj_dim=256), data={"rows": 6})
ROWS = np.arange(6 * 256, dtype=np.float32).reshape(6, 256)
IDS = [f"row {i}" for i in range(6)]


def job(path, told):
    """Writes what is missing of six rows, in shards of four, and reads them back. `told`: rows said to be committed."""
    with Datastore.create(path, spec=SPEC, dtype="float32", resume=True, shard_rows=4) as writer:
        for gap in writer.missing():
            for start, stop in ((gap.start, min(gap.stop, 4)), (max(gap.start, 4), gap.stop)):
                if start < stop:
                    writer.append(IDS[start:stop], ROWS[start:stop], first=start)
                    writer.commit()
                    told[:] = range(stop)
    store = Datastore.open(path, verify="full")
    assert store.ids() == IDS
    np.testing.assert_array_equal(store.rows(), ROWS)
    return store


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.exists() else {}


def check_holds(path, told, golden):
    """What a reader sees: whole files with the bytes they must have, and all that was said to be committed."""
    seen = {name: raw for name, raw in files(path).items() if not name.startswith(".")}
    assert seen.items() <= golden.items()
    if "spec.json" not in seen:
        assert not told
        return
    store = Datastore.open(path, verify="full")
    assert set(told) <= set(store.positions().tolist())
    for block in store.blocks():
        np.testing.assert_array_equal(block.rows, ROWS[block.first : block.first + len(block)])
