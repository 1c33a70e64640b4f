"""Calls that fail: a typed error, nothing visible, nothing left over, and everything earlier intact."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore import _io
from gradsift.errors import DatastoreError, DatastoreExistsError, DatastoreSpaceError

# Every call of a publication: the temporary, five writes, fsync, link, unlink, fsync of the directory.
CALLS = ["open", *["write"] * 5, "fsync", "link", "unlink", "fsync"]


@pytest.fixture
def half(stores):
    """A store with rows 0 … 3, and a writer with rows 4 … 6 that are not published."""
    stores.make(4)
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        writer.append(["a", "b", "c"], stores.sketches(3))
        yield writer
        writer.close()


def test_publication_makes_the_calls_whose_failure_is_tried_below(half, faulty_os, monkeypatch):
    spy = faulty_os.FaultyOS()
    monkeypatch.setattr(_io, "os", spy)
    half.commit()
    assert spy.trace == CALLS


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, DatastoreSpaceError),
        (errno.EDQUOT, DatastoreSpaceError),
        (errno.EIO, DatastoreError),
        (errno.EACCES, DatastoreError),
    ],
)
@pytest.mark.parametrize("at", [n for n, call in enumerate(CALLS) if call != "unlink"])
def test_a_call_that_fails_leaves_nothing_behind_and_the_commit_can_be_repeated(
    at, code, error, half, stores, faulty_os, monkeypatch
):
    before = stores.files()
    monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(at=at, fault=faulty_os.raising(code)))
    with pytest.raises(error, match=r"shard-000000000000004-00000003") as caught:
        half.commit()
    assert isinstance(caught.value, DatastoreSpaceError) == (code in (errno.ENOSPC, errno.EDQUOT))
    monkeypatch.setattr(_io, "os", os)
    assert stores.files() == before
    assert half.missing(7) == [range(4, 7)]
    half.commit()
    assert Datastore.open(stores.path, verify="full").ids()[4:] == ["a", "b", "c"]


def test_a_full_disk_is_reported_with_the_bytes_needed(half, stores, faulty_os, monkeypatch):
    monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(("write",), 1, faulty_os.raising(errno.ENOSPC)))
    with pytest.raises(DatastoreSpaceError) as caught:
        half.commit()
    monkeypatch.setattr(_io, "os", os)
    half.commit()
    assert f"room for {stores.shards()[1].stat().st_size} bytes" in str(caught.value)


def test_an_orphan_that_cannot_be_removed_is_ignored_by_readers_and_removed_on_resume(
    half, stores, faulty_os, monkeypatch
):
    unlink = CALLS.index("unlink")
    monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(at=unlink, fault=faulty_os.raising(errno.EIO)))
    half.commit()
    half.close()
    assert len([n for n in stores.names() if n.startswith(".tmp-")]) == 1
    assert len(Datastore.open(stores.path, verify="full")) == 7
    Datastore.create(stores.path, spec=stores.spec(), resume=True).close()
    assert not [n for n in stores.names() if n.startswith(".tmp-")]


def test_a_publication_that_fails_leaves_no_thread_at_work(half, faulty_os, monkeypatch):
    monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(("write",), 1, faulty_os.raising(errno.EIO)))
    with pytest.raises(DatastoreError) as caught:
        half.commit()
    assert caught.value.__traceback__ is not None  # which keeps the frames, and so the generator
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("gradsift")] == []


def test_a_failed_fsync_is_not_tried_again_on_the_same_file(half, faulty_os, monkeypatch):
    shim = faulty_os.FaultyOS(("fsync",), 0, faulty_os.raising(errno.EIO))
    monkeypatch.setattr(_io, "os", shim)
    with pytest.raises(DatastoreError, match="could not be published"):
        half.commit()
    assert shim.trace == ["fsync"]


def test_resume_makes_names_durable_whose_writer_died_before_it_could(stores, faulty_os, monkeypatch):
    stores.make(4)
    spy = faulty_os.FaultyOS(("fsync",))
    monkeypatch.setattr(_io, "os", spy)
    Datastore.create(stores.path, spec=stores.spec(), resume=True).close()
    assert spy.trace == ["fsync", "fsync"]  # the store's own name, and those in it
    for at, says in enumerate(("cannot be made", "cannot be synced")):
        monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(("fsync",), at, faulty_os.raising(errno.EIO)))
        with pytest.raises(DatastoreError, match=says):
            Datastore.create(stores.path, spec=stores.spec(), resume=True)


def test_short_writes_are_continued(half, stores, faulty_os, monkeypatch):
    for at in range(5):
        with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
            shim = faulty_os.FaultyOS(("write",), at, lambda real, fd, data: real(fd, memoryview(data)[:7]))
            monkeypatch.setattr(_io, "os", shim)
            writer.append([f"short {at}"], stores.sketches(1), first=100 + at)
        assert shim.trace.count("write") == 6
        monkeypatch.setattr(_io, "os", os)
    assert Datastore.open(stores.path, verify="full").ids()[4:] == [f"short {at}" for at in range(5)]


@pytest.mark.parametrize("at", range(len(CALLS)))
def test_ctrl_c_at_any_call_leaves_whole_shards_and_no_temporary(at, stores, faulty_os, monkeypatch):
    stores.make(4)

    def interrupt(real, *args, **kwargs):
        if real is os.unlink:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    def write_more():
        with Datastore.create(stores.path, spec=stores.spec(), resume=True, shard_rows=4) as writer:
            monkeypatch.setattr(_io, "os", faulty_os.FaultyOS(at=at, fault=interrupt))
            writer.append(list("abcdef"), stores.sketches(6))

    with pytest.raises(KeyboardInterrupt):
        write_more()
    monkeypatch.setattr(_io, "os", os)
    assert not [n for n in stores.names() if n.startswith(".tmp-")]
    store = Datastore.open(stores.path, verify="full")
    assert len(store) == (8 if at > CALLS.index("link") else 4)
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        assert writer.missing(10) == [range(len(store), 10)]


def test_two_writers_of_the_same_rows_agree(stores):
    options = {"spec": stores.spec(), "resume": True}
    with Datastore.create(stores.path, **options) as one, Datastore.create(stores.path, **options) as other:
        for writer in (one, other):
            writer.append(["a", "b"], stores.sketches(2))
            writer.commit()
    assert len(Datastore.open(stores.path, verify="full")) == 2
    assert len(stores.names()) == 2


def test_two_writers_of_different_values_for_the_same_rows_are_told(stores):
    options = {"spec": stores.spec(), "resume": True}
    one, other = Datastore.create(stores.path, **options), Datastore.create(stores.path, **options)
    one.append(["a", "b"], stores.sketches(2, seed=1))
    other.append(["a", "b"], stores.sketches(2, seed=2))
    one.finish()
    with pytest.raises(DatastoreExistsError, match="other bytes"):
        other.finish()
    np.testing.assert_allclose(Datastore.open(stores.path).rows(), stores.sketches(2, seed=1).rows, rtol=2**-8)
    assert len(stores.names()) == 2


def test_a_writer_whose_rows_overlap_another_writers_shard_is_told(stores):
    options = {"spec": stores.spec(), "resume": True}
    one, other = Datastore.create(stores.path, **options), Datastore.create(stores.path, **options)
    one.append(["a", "b"], stores.sketches(2))
    other.append(["b"], stores.sketches(1), first=1)
    one.finish()
    with pytest.raises(DatastoreExistsError, match="another writer published them"):
        other.finish()
    assert Datastore.open(stores.path, verify="full").ids() == ["a", "b"]


def test_a_reader_keeps_what_it_opened_while_writers_publish_and_files_go(stores):
    stores.make(4)
    store = Datastore.open(stores.path)
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        writer.append(["more"], stores.sketches(1))
    stores.shards()[0].unlink()
    assert len(store) == 4
    assert store.rows().shape == (4, 256)
    assert Datastore.open(stores.path).gaps() == [range(4)]
