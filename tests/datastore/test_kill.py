"""A writer that is killed at any step leaves whole shards only, and the run can be resumed to the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradsift import Datastore, StoreSpec
from gradsift.specs import ProjectionSpec

CHILD = Path(__file__).parent / "dying_writer.py"
ROWS = np.arange(8 * 256, dtype=np.float32).reshape(8, 256)

# call, which one of its kind while the second shard is written, fault, rows that are there afterwards
STEPS = {
    "before the temporary is made": ("open", 0, "die", 4),
    "before the header": ("write", 0, "die", 4),
    "in the header": ("write", 0, "die_half_way", 4),
    "before the rows": ("write", 1, "die", 4),
    "in the rows": ("write", 1, "die_half_way", 4),
    "before the block checksums": ("write", 2, "die", 4),
    "before the row table": ("write", 3, "die", 4),
    "before the footer": ("write", 4, "die", 4),
    "in the footer": ("write", 4, "die_half_way", 4),
    "before the file is synced": ("fsync", 0, "die", 4),
    "before it gets its name": ("link", 0, "die", 4),
    "before the temporary goes": ("unlink", 0, "die", 8),
    "before the directory is synced": ("fsync", 1, "die", 8),
    "after the shard is published": ("open", 9, "at_the_end", 8),
}


def run(path: Path, call: str = "open", number: int = 9, fault: str = "none") -> int:
    command = [sys.executable, str(CHILD), str(path), call, str(number), fault]
    return subprocess.run(command, env=dict(os.environ), check=False, timeout=60).returncode


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_writer_leaves_whole_shards_and_resumes_to_the_same_bytes(step, stores):
    call, number, fault, rows = STEPS[step]
    assert run(stores.path, call, number, fault) == 9
    store = Datastore.open(stores.path, verify="full")
    np.testing.assert_array_equal(store.rows(), ROWS[:rows])
    assert store.complete == (rows == 8)

    with Datastore.create(stores.path, spec=store.spec, dtype="float32", resume=True, shard_rows=4) as writer:
        assert writer.missing() == ([range(4, 8)] if rows == 4 else [])
        assert not [name for name in stores.names() if name.startswith(".tmp-")]
        for gap in writer.missing():
            writer.append([f"row {i}" for i in gap], ROWS[gap.start : gap.stop], first=gap.start)
    resumed = stores.files()

    stores.path = stores.path.with_name("uninterrupted")
    spec = StoreSpec(ProjectionSpec(proj_dim=256), data={"rows": 8})
    with Datastore.create(stores.path, spec=spec, dtype="float32", shard_rows=4) as writer:
        writer.append([f"row {i}" for i in range(8)], ROWS)
    assert resumed == stores.files()


def test_a_store_killed_while_it_was_made_is_made_by_the_next_run(stores):
    stores.path.mkdir()
    (stores.path / (".tmp-" + "0" * 32)).write_bytes(b'{"digest":')
    assert Datastore.create(stores.path, spec=stores.spec()).missing(3) == [range(3)]
    assert stores.names() == ["spec.json"]


def test_temporaries_of_a_living_writer_are_left_alone(stores, faulty_os, monkeypatch):
    """While one writer is in the middle of a shard, another resumes the store."""
    from gradsift.datastore import _io

    stores.make(4)
    seen = []

    def resume_meanwhile(real, fd, data):
        Datastore.create(stores.path, spec=stores.spec(), resume=True).close()
        seen.extend(name for name in stores.names() if name.startswith(".tmp-"))
        return real(fd, data)

    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(("write",), 2, resume_meanwhile))
        writer.append(["more"], stores.sketches(1))
    assert len(seen) == 1
    assert len(Datastore.open(stores.path, verify="full")) == 5
