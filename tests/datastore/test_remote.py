"""Stores behind fsspec, on its file system in memory and on ones that misbehave."""

from __future__ import annotations

import errno
import subprocess
import sys
import traceback
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gradsift import Datastore
from gradsift.datastore import _remote
from gradsift.errors import (
    DatastoreCorruptError,
    DatastoreError,
    DatastoreExistsError,
    DependencyMissingError,
    SpecMismatchError,
)

CALLS = ("ls", "info", "cat_file", "cat_ranges", "pipe_file")


class Misbehaving(MemoryFileSystem):
    """As in memory, under the name of a file system that publishes; `fault` stands in for the next `pipe_file`."""

    protocol = ("s3", "misbehaving")
    store: ClassVar = {}  # as in the base class: shared by all instances
    pseudo_dirs: ClassVar = [""]
    fault = None

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("misbehaving://", "memory://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        fault, type(self).fault = type(self).fault, None
        if fault is not None:
            return fault(self, path, value, mode)
        return super().pipe_file(path, value, mode=mode)


class Plain(MemoryFileSystem):
    protocol = "plain"

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("plain://", "memory://"))


@pytest.fixture(autouse=True)
def file_systems():
    fsspec.register_implementation("misbehaving", Misbehaving, clobber=True)
    fsspec.register_implementation("plain", Plain, clobber=True)
    yield
    for kind in (MemoryFileSystem, Misbehaving):
        kind.store.clear()
        kind.pseudo_dirs[:] = [""]
    Misbehaving.fault = None


@pytest.fixture
def calls(monkeypatch):
    """Names of the calls on the file system in memory; those that `cat_ranges` makes count as its ranges."""
    made = []

    def counted(name, real):
        def call(self, *args, **kwargs):
            made.append(name)
            return real(self, *args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(MemoryFileSystem, name, counted(name, getattr(MemoryFileSystem, name)))
    return made


def fill(stores, url, n=10, **options):
    options = {"spec": stores.spec(), "shard_rows": 4, **options}
    with Datastore.create(url, **options) as writer:
        writer.append([f"id {i}" for i in range(n)], stores.sketches(n, options["spec"].projection.proj_dim))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int4"])
def test_a_remote_store_holds_the_bytes_of_a_local_one_and_reads_the_same(stores, dtype):
    fill(stores, "memory://bucket/store", dtype=dtype)
    fill(stores, stores.path, dtype=dtype)
    fs = fsspec.filesystem("memory")
    assert {
        name.rpartition("/")[2]: fs.cat_file(name) for name in fs.ls("/bucket/store", detail=False)
    } == stores.files()
    local, remote = Datastore.open(stores.path), Datastore.open("memory://bucket/store", verify="full")
    np.testing.assert_array_equal(remote.rows(), local.rows())
    np.testing.assert_array_equal(remote.rows(3, 9), local.rows(3, 9))
    assert remote.ids() == local.ids()
    assert [block.ids for block in remote.blocks(3)] == [block.ids for block in local.blocks(3)]
    for name, column in local.metadata().items():
        np.testing.assert_array_equal(remote.metadata()[name], column)
    assert remote.verify().ok
    assert remote.info() == {**local.info(), "path": "memory://bucket/store"}


def test_a_remote_store_is_resumed_and_knows_its_spec(stores):
    with Datastore.create("memory://b/s", spec=stores.spec(rows=9), shard_rows=3) as writer:
        writer.append(["a", "b", "c"], stores.sketches(3), first=3)
    with pytest.raises(DatastoreExistsError, match="resume=True"):
        Datastore.create("memory://b/s", spec=stores.spec(rows=9))
    with pytest.raises(SpecMismatchError, match=r"projection\.seed"):
        Datastore.create("memory://b/s", spec=stores.spec(rows=9, seed=1), resume=True)
    with Datastore.create("memory://b/s", spec=stores.spec(rows=9), shard_rows=3, resume=True) as writer:
        assert writer.missing() == [range(3), range(6, 9)]
        writer.append(range_ids(3), stores.sketches(3))
    assert Datastore.open("memory://b/s").gaps() == [range(6, 9)]


def range_ids(n):
    return [f"new {i}" for i in range(n)]


def test_opening_costs_one_listing_and_two_ranges_a_shard_in_one_call(stores, calls, monkeypatch):
    spec = stores.spec(proj_dim=65536)  # 128 KiB a row: a shard of 4 is longer than its ends
    fill(stores, "memory://b/s", n=20, spec=spec)
    ranges = []
    real = MemoryFileSystem.cat_ranges
    monkeypatch.setattr(
        MemoryFileSystem,
        "cat_ranges",
        lambda self, paths, *a, **k: ranges.append(len(paths)) or real(self, paths, *a, **k),
    )
    calls.clear()
    store = Datastore.open("memory://b/s")
    assert ranges == [10]
    assert sorted(c for c in calls if c != "cat_file") == ["cat_ranges", "info", "ls"]
    assert calls.count("cat_file") == 1 + 10  # spec.json; and the ranges
    calls.clear()
    assert len(store.ids()) == len(store.metadata()["loss"]) == 20
    assert calls == []


def test_reading_rows_takes_one_request_for_neighbouring_blocks_and_none_for_what_was_just_read(stores, calls):
    spec = stores.spec(proj_dim=65536)  # 8 rows a block
    fill(stores, "memory://b/s", n=64, spec=spec, shard_rows=32)
    store = Datastore.open("memory://b/s")
    calls.clear()
    store.rows(9, 10)
    assert calls == ["cat_file"]
    store.rows(10, 16)
    assert calls == ["cat_file"]
    store.rows(8, 32)
    assert calls == ["cat_file"] * 2
    store.rows()
    assert calls == ["cat_file"] * 4  # two shards
    calls.clear()
    assert sum(len(block) for block in store.blocks(3)) == 64
    assert calls == ["cat_file"] * 2


def test_reading_on_keeps_no_more_than_its_bound(stores, monkeypatch):
    monkeypatch.setattr(_remote, "AHEAD_BYTES", 2 << 20)
    fill(stores, "memory://b/s", n=64, spec=stores.spec(proj_dim=65536), shard_rows=64)
    sizes = []
    real = _remote.RemoteDirectory.fetch
    monkeypatch.setattr(
        _remote.RemoteDirectory,
        "fetch",
        lambda self, name, start, stop: sizes.append(stop - start) or real(self, name, start, stop),
    )
    store = Datastore.open("memory://b/s")
    sizes.clear()
    got = np.concatenate([block.rows for block in store.blocks(8)])
    assert max(sizes) <= 2 << 20
    assert len(sizes) == 4
    np.testing.assert_array_equal(got, store.rows())


def test_a_flipped_bit_in_a_remote_block_is_found_each_time_and_skipped_if_asked(stores):
    fill(stores, "memory://b/s", n=64, spec=stores.spec(proj_dim=65536), shard_rows=64)
    name = next(n for n in MemoryFileSystem.store if n.endswith(".gs"))
    raw = bytearray(MemoryFileSystem.store[name].getvalue())
    raw[4096 + (3 << 20) + 5] ^= 1
    fsspec.filesystem("memory").pipe_file(name, bytes(raw))
    store = Datastore.open("memory://b/s")
    for _ in range(2):
        with pytest.raises(DatastoreCorruptError, match=r"block 3 at offset 3149824 \(rows 24 … 31\)"):
            store.rows(20, 30)
    store.rows(0, 24)
    assert sum(len(block) for block in store.blocks(5, on_error="skip")) == 56
    assert [(d.first, d.stop) for d in store.damaged] == [(25, 30), (24, 25), (30, 32)] or sum(
        map(len, store.damaged)
    ) == 8
    assert not Datastore.open("memory://b/s").verify().ok
    Datastore.open("memory://b/s", verify="none").rows()


def test_an_object_that_shrinks_after_opening_is_named(stores):
    fill(stores, "memory://b/s", n=64, spec=stores.spec(proj_dim=65536), shard_rows=64)
    store = Datastore.open("memory://b/s")
    name = next(n for n in MemoryFileSystem.store if n.endswith(".gs"))
    fsspec.filesystem("memory").pipe_file(name, MemoryFileSystem.store[name].getvalue()[: 5 << 20])
    with pytest.raises(DatastoreCorruptError, match="the file was cut"):
        store.rows(60, 64)


def test_damaged_shards_are_left_out_on_request(stores):
    fill(stores, "memory://b/s", n=8)
    first = min(n for n in MemoryFileSystem.store if n.endswith(".gs"))
    fsspec.filesystem("memory").pipe_file(first, MemoryFileSystem.store[first].getvalue()[:-1])
    with pytest.raises(DatastoreCorruptError):
        Datastore.open("memory://b/s")
    store = Datastore.open("memory://b/s", on_error="skip")
    assert store.positions().tolist() == [4, 5, 6, 7]
    assert [(d.first, d.stop) for d in store.damaged] == [(0, 4)]


def test_a_folder_with_the_name_of_a_shard_is_an_error(stores):
    fill(stores, "memory://b/s", n=4)
    fsspec.filesystem("memory").pipe_file("/b/s/shard-x.gs/inside", b"1")
    fsspec.filesystem("memory").pipe_file("/b/s/notes/inside", b"1")
    with pytest.raises(DatastoreCorruptError):
        Datastore.open("memory://b/s")


def test_another_writer_of_the_same_rows_agrees_or_is_refused(stores):
    spec = stores.spec(rows=4)
    ids = [f"id {i}" for i in range(4)]
    writers = [
        Datastore.create("memory://b/s", spec=spec, dtype="float32", shard_rows=4, resume=True) for _ in range(3)
    ]
    writers[0].append(ids, stores.sketches(4))
    writers[1].append(ids, stores.sketches(4))
    with pytest.raises(DatastoreExistsError, match="got other bytes"):
        writers[2].append(ids, stores.sketches(4, seed=1))
    np.testing.assert_array_equal(Datastore.open("memory://b/s").rows(), stores.sketches(4).rows)


def test_no_store_there_is_an_error_that_says_so():
    with pytest.raises(DatastoreError, match=r"memory://b/none/spec\.json.*cannot be opened"):
        Datastore.open("memory://b/none")


def break_off(fs, path, value, mode):
    raise ConnectionError("connection lost after 7 of 9 parts")


def lose_the_answer(fs, path, value, mode):
    MemoryFileSystem.pipe_file(fs, path, value, mode=mode)
    raise TimeoutError("no answer")


def test_an_upload_that_breaks_off_publishes_nothing_and_can_be_repeated(stores):
    with Datastore.create("misbehaving://b/s", spec=stores.spec(), shard_rows=4) as writer:
        Misbehaving.fault = break_off
        with pytest.raises(DatastoreError, match=r"could not be published; resume once.*7 of 9 parts"):
            writer.append(["a", "b", "c", "d"], stores.sketches(4))
        assert len(Datastore.open("misbehaving://b/s")) == 0
        writer.commit()
    assert len(Datastore.open("misbehaving://b/s")) == 4


def test_an_upload_whose_answer_is_lost_counts_as_published(stores):
    with Datastore.create("misbehaving://b/s", spec=stores.spec(), shard_rows=4) as writer:
        Misbehaving.fault = lose_the_answer
        writer.append(["a", "b", "c", "d"], stores.sketches(4))
    assert len(Datastore.open("misbehaving://b/s")) == 4


def test_a_server_that_ignores_the_condition_is_refused(stores, monkeypatch):
    monkeypatch.setattr(
        Misbehaving, "pipe_file", lambda self, path, value, mode, **k: MemoryFileSystem.pipe_file(self, path, value)
    )
    with pytest.raises(DatastoreError, match="If-None-Match"):
        Datastore.create("misbehaving://b/s", spec=stores.spec())


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (FileExistsError("there"), None),
        (OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold"), None),  # s3fs
        (PermissionError("no"), "whether a second writer is refused could not be seen.*PermissionError: no"),
        (TimeoutError("late"), "whether a second writer is refused could not be seen.*TimeoutError: late"),
    ],
    ids=["refused", "refused, unnamed", "not allowed", "no answer"],
)
def test_only_a_refusal_shows_that_the_condition_is_honoured(stores, error, says):
    Datastore.create("misbehaving://b/s", spec=stores.spec()).finish()

    def fault(*_):
        raise error

    Misbehaving.fault = fault
    if says is None:
        Datastore.create("misbehaving://b/s", spec=stores.spec(), resume=True).finish()
    else:
        with pytest.raises(DatastoreError, match=says):
            Datastore.create("misbehaving://b/s", spec=stores.spec(), resume=True)
    assert Misbehaving.fault is None


def test_file_systems_that_do_not_publish_whole_files_are_read_only(stores):
    fill(stores, "memory://b/s", n=4)
    assert len(Datastore.open("plain://b/s")) == 4
    with pytest.raises(DatastoreError, match=r"expected a file system that publishes.*got plain"):
        Datastore.create("plain://b/other", spec=stores.spec())


SECRETS = ("AKIDEXAMPLE", "s3cr3t/value", "tok3n-tok3n")


def leak(*_, **__):
    try:
        raise OSError(f"403 for https://h/x?X-Amz-Credential=AKIDEXAMPLE&X-Amz-Signature=ab12cd with {SECRETS[1]}")
    except OSError as error:
        raise PermissionError(
            f"denied to {SECRETS[0]}:{SECRETS[1]}@h, session {SECRETS[2]}, https://u:w0rd@h/x?X-Amz-Signature=ab12cd"
        ) from error


@pytest.mark.parametrize("call", CALLS)
def test_no_message_and_no_traceback_shows_a_credential(stores, call, monkeypatch):
    fill(stores, "misbehaving://b/s", n=4)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRETS[2])
    monkeypatch.setattr(Misbehaving, call, leak)
    url = f"misbehaving://{SECRETS[0]}:{SECRETS[1].replace('/', '%2F')}@b/s"
    options = {"client_kwargs": {"key": [SECRETS[0]]}, "secret": SECRETS[1]}
    shown = "\n".join(
        explained(lambda where=where, action=action: action(where, storage_options=options))
        for where in ("misbehaving://b/s", url)
        for action in (
            Datastore.open,
            lambda w, **k: Datastore.create(w, spec=stores.spec(), resume=True, **k).finish(),
        )
    )
    assert "PermissionError" in shown
    for secret in (*SECRETS, SECRETS[1].replace("/", "%2F"), "ab12cd", "w0rd"):
        assert secret not in shown


def explained(action):
    try:
        action()
    except DatastoreError as error:
        return "".join(traceback.format_exception(error))
    return ""


def test_urls_are_shown_without_user_and_query():
    assert _remote.shown_url("sftp://me:pw@host/a@b") == "sftp://host/a@b"
    assert _remote.shown_url("https://host/store?sig=abc") == "https://host/store?…"


def test_local_paths_take_no_options_and_file_urls_are_local(stores):
    stores.make(2)
    assert len(Datastore.open(f"file://{stores.path}")) == 2
    with pytest.raises(ValueError, match="storage_options: expected none"):
        Datastore.open(stores.path, storage_options={"key": "x"})


def test_an_unknown_protocol_is_refused_by_name():
    with pytest.raises(ValueError, match=r"path: expected the URL.*'nosuch://b/s'"):
        Datastore.open("nosuch://b/s")


def test_local_stores_need_no_fsspec_and_urls_say_how_to_get_it(stores):
    stores.make(2)
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "from gradsift import Datastore\n"
        "from gradsift.errors import DependencyMissingError\n"
        f"print(len(Datastore.open({str(stores.path)!r})))\n"
        "try:\n    Datastore.open('s3://b/s')\nexcept DependencyMissingError as error:\n    print(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("2\n")
    assert "pip install 'gradsift[remote]'" in found


def test_a_missing_driver_says_how_to_get_it(monkeypatch):
    def refuse(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(DependencyMissingError, match=r"Install s3fs.*gradsift\[remote\]"):
        Datastore.open("s3://b/s")


def test_blocks_that_are_fetched_again_are_checked_again(stores):
    fill(stores, "memory://b/s", n=64, spec=stores.spec(proj_dim=65536), shard_rows=64)
    store = Datastore.open("memory://b/s")
    store.rows(24, 32)
    name = next(n for n in MemoryFileSystem.store if n.endswith(".gs"))
    raw = bytearray(MemoryFileSystem.store[name].getvalue())
    raw[4096 + (3 << 20) + 5] ^= 1
    fsspec.filesystem("memory").pipe_file(name, bytes(raw))
    store.rows(24, 32)  # still at hand
    store.rows(0, 8)
    with pytest.raises(DatastoreCorruptError, match="block 3"):
        store.rows(24, 32)
