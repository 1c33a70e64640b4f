"""Several processes fill one store: work is shared, the dead are replaced, and who disagrees is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore import _io, claims
from gradsift.errors import DatastoreExistsError

CHILD = Path(__file__).parent / "sharing_writer.py"
UNITS = list(range(0, 40, 4))


def start(path: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(CHILD), str(path), str(log), *more], env=dict(os.environ))


def made(log: Path) -> list[tuple[int, int]]:
    """(process, first row) of every unit that was made."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """The files that one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    assert start(folder / "store", folder / "log").wait(120) == 0
    return files(folder / "store")


def test_three_processes_make_every_unit_once_and_the_bytes_that_one_makes(alone, tmp_path):
    children = [start(tmp_path / "store", tmp_path / "log") for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    assert sorted(first for _, first in made(tmp_path / "log")) == UNITS
    assert files(tmp_path / "store") == alone


def test_a_full_disk_does_not_stand_in_the_way_of_a_claim(stores, faulty_os, monkeypatch):
    """What a claim's file says is for people; the lock on it is what counts."""
    with Datastore.create(stores.path, spec=stores.spec(rows=8)) as writer:
        monkeypatch.setattr(claims, "os", faulty_os.FaultyOS(("write",), 0, faulty_os.raising(errno.ENOSPC)))
        claim = writer.claim(range(4))
        monkeypatch.undo()
        assert claim is not None
        with claim:
            assert writer.claim(range(4)) is None


def test_the_unit_of_a_killed_process_is_taken_over(alone, tmp_path):
    store, log = tmp_path / "store", tmp_path / "log"
    dying = start(store, log, "8")
    wait_for(lambda: (dying.pid, 8) in made(log))
    other = start(store, log)
    wait_for(lambda: len(made(log)) == len(UNITS))
    assert other.poll() is None  # it waits for the unit, since its maker lives
    assert not list(store.glob("shard-000000000000008-*"))
    dying.kill()
    dying.wait()
    assert other.wait(120) == 0
    assert sorted(first for pid, first in made(log) if pid == other.pid) == [8, *UNITS[3:]]
    assert files(store) == alone


def test_a_claim_is_held_until_it_is_released_and_leaves_no_file(stores):
    options = {"spec": stores.spec(), "resume": True}
    with Datastore.create(stores.path, **options) as one, Datastore.create(stores.path, **options) as other:
        with one.claim(range(4)) as claim:
            assert claim is not None
            assert other.claim(range(4)) is None
            assert Datastore.open(stores.path).gaps() == []  # readers pass over the file
        assert stores.names() == ["spec.json"]
        with other.claim(range(4)) as claim:
            assert claim is not None


def test_a_claim_released_between_open_and_lock_is_made_anew(stores, monkeypatch):
    """The second claimer opened the file of the first, which is gone when it gets the lock."""
    import fcntl

    options = {"spec": stores.spec(), "resume": True}
    with Datastore.create(stores.path, **options) as one, Datastore.create(stores.path, **options) as other:
        first = one.claim(range(4))
        real = fcntl.flock

        def release_first(fd, how):
            monkeypatch.setattr(fcntl, "flock", real)
            first.release()
            real(fd, how)

        monkeypatch.setattr(fcntl, "flock", release_first)
        with other.claim(range(4)) as second:
            assert second is not None
            assert [name[:7] for name in stores.names()] == [".claim-", "spec.js"]
            assert one.claim(range(4)) is None


def test_rows_that_another_writer_published_are_known_after_a_refresh(stores):
    options = {"spec": stores.spec(rows=6), "resume": True, "shard_rows": 3}
    with Datastore.create(stores.path, **options) as one, Datastore.create(stores.path, **options) as other:
        one.append(["a", "b", "c"], stores.sketches(3))
        assert other.missing() == [range(6)]
        other.refresh()
        assert other.missing() == [range(3, 6)]
        with pytest.raises(ValueError, match="of which 0 … 2 are"):
            other.append(["a", "b", "c"], stores.sketches(3), first=0)
        with pytest.raises(ValueError, match="unique in the store, got 'a'"):
            other.append(["a"], stores.sketches(1), first=3)


def test_a_refresh_does_not_drop_rows_that_collide(stores):
    options = {"spec": stores.spec(), "resume": True}
    with Datastore.create(stores.path, **options) as one, Datastore.create(stores.path, **options) as other:
        other.append(["b"], stores.sketches(1), first=1)
        one.append(["a", "b"], stores.sketches(2))
        one.commit()
        with pytest.raises(DatastoreExistsError, match=r"got rows 1 … 1 of another writer"):
            other.refresh()
        other.close()


def test_shards_of_other_boundaries_cannot_both_be_published(stores, monkeypatch):
    """While one writer is between looking for overlaps and taking its name, another publishes an overlapping shard."""
    options = {"spec": stores.spec(), "resume": True}
    one, other = Datastore.create(stores.path, **options), Datastore.create(stores.path, **options)
    one.append(["a", "b"], stores.sketches(2))
    other.append(["b"], stores.sketches(1), first=1)
    outcome: list[BaseException | None] = []
    link = _io.Directory._link

    def publish_other() -> None:
        try:
            other.finish()
            outcome.append(None)
        except DatastoreExistsError as error:
            outcome.append(error)

    def slow_link(self, temp, name):
        if self is one._directory:
            thread.start()
            thread.join(0.5)
        return link(self, temp, name)

    thread = threading.Thread(target=publish_other)
    monkeypatch.setattr(_io.Directory, "_link", slow_link)
    one.finish()
    thread.join(30)
    (error,) = outcome
    assert "another writer published them" in str(error)
    assert Datastore.open(stores.path, verify="full").ids() == ["a", "b"]
    np.testing.assert_array_equal(Datastore.open(stores.path).positions(), [0, 1])


@pytest.mark.parametrize(
    ("ids", "seed", "says"),
    [
        (["b"], 0, r"What both hold is equal: resume"),
        (["c"], 0, r"differ in the id of row 1 \('b' against 'c'\)"),
        (["b"], 1, r"differ in the numbers of row 1: find out which is right"),
    ],
)
def test_writers_whose_shards_overlap_are_told_whether_they_agree(ids, seed, says, stores):
    options = {"spec": stores.spec(), "resume": True}
    one, other = Datastore.create(stores.path, **options), Datastore.create(stores.path, **options)
    one.append(["a", "b"], stores.sketches(2))
    other.append(ids, stores.sketches(2, seed=seed)[1:], first=1)
    one.finish()
    with pytest.raises(DatastoreExistsError, match=says):
        other.finish()
