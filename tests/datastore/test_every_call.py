"""Every call that a store makes of the operating system fails, once or from then on; or the process dies there.

Each test goes over the calls of one whole job (make a store, write two shards, read all of it) until the job gets by
without the fault.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress

import pytest

from gradsift import Datastore
from gradsift.errors import DatastoreError, DatastoreSpaceError


@pytest.fixture(scope="module")
def golden(tmp_path_factory, small_job):
    path = tmp_path_factory.mktemp("golden") / "store"
    small_job.job(path, [])
    return small_job.files(path)


def open_files():
    """What this process holds open, by what it is."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the handle that listed the directory
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(found)


@pytest.fixture
def every_call(fault_layer, small_job, tmp_path):
    """Yields (layer, path, rows told to be committed, what the job raised) with call 0, 1, … at fault."""

    def run(fault, *, onwards, job=small_job.job, calls=50):
        for at in range(1000):
            path, told, raised = tmp_path / f"store {at}", [], None
            with fault_layer.installed(fault_layer.FaultLayer(at, fault, onwards=onwards)) as layer:
                try:
                    job(path, told)
                except (Exception, fault_layer.Killed) as error:
                    raised = error
                    # Not for us to keep the files that a reader had open when it stopped.
                    raised.__traceback__ = raised.__cause__ = raised.__context__ = None
            if layer.failed_call is None:
                assert at >= calls, "the job makes more calls than that"
                assert raised is None
                return
            yield layer, path, told, raised
        raise AssertionError("the job never got by")

    return run


@pytest.mark.parametrize("onwards", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=errno.errorcode.get)
def test_a_call_that_fails_is_a_typed_error_that_leaves_nothing_and_the_job_can_be_repeated(
    code, onwards, fault_layer, golden, small_job, every_call
):
    handles = open_files()
    for layer, path, told, raised in every_call(fault_layer.raising(code), onwards=onwards):
        if raised is not None:
            assert isinstance(raised, DatastoreError), raised
            assert os.strerror(code) in str(raised)
            assert "store" in str(raised)
        assert open_files() == handles, layer.failed_call
        if not onwards and layer.failed_call != "unlink":
            assert not [name for name in small_job.files(path) if name.startswith(".tmp-")]
        small_job.check_holds(path, told, golden)
        with fault_layer.installed(fault_layer.FaultLayer()):
            small_job.job(path, told)
        assert small_job.files(path) == golden


def test_a_call_that_fails_while_another_writers_file_is_compared_is_a_typed_error_too(
    fault_layer, golden, small_job, every_call
):
    def late_job(path, told):
        """Both shards turn up, published by another writer, after this one has looked."""
        with Datastore.create(path, spec=small_job.SPEC, dtype="float32", resume=True, shard_rows=4) as writer:
            for name, raw in golden.items():
                (path / name).write_bytes(raw)
            writer.append(small_job.IDS, small_job.ROWS)
            told[:] = range(4)
        told[:] = range(6)

    handles = open_files()
    fault = fault_layer.raising(errno.EIO)
    for layer, path, told, raised in every_call(fault, onwards=False, job=late_job, calls=40):
        assert raised is None or isinstance(raised, DatastoreError), raised
        assert open_files() == handles, layer.failed_call
        small_job.check_holds(path, told, golden)


def test_a_call_that_may_fail_unheard_does_not_stop_the_job(fault_layer, every_call):
    got_by = {
        layer.failed_call
        for layer, _, _, raised in every_call(fault_layer.raising(errno.EIO), onwards=False)
        if raised is None
    }
    # No lock: nobody removes it as stale. No unlink: the next resume removes it.
    assert got_by == {"flock", "unlink", "posix_fadvise"}


def test_a_full_disk_is_told_with_the_bytes_that_the_file_needs(fault_layer, golden, every_call):
    told_bytes = set()
    for layer, _, _, raised in every_call(fault_layer.raising(errno.ENOSPC), onwards=True):
        if layer.failed_call in ("write", "link"):
            assert isinstance(raised, DatastoreSpaceError)
            found = re.search(r"([\w.-]+)': expected room for (\d+) bytes, got No space left .* free", str(raised))
            assert int(found[2]) == len(golden[found[1]])
            told_bytes.add(found[1])
    assert told_bytes == set(golden)


def test_a_sync_that_failed_is_not_tried_again_on_that_file(fault_layer, every_call):
    tried = 0
    for layer, _, _, raised in every_call(fault_layer.raising(errno.EIO), onwards=False):
        if layer.failed_call == "fsync":
            tried += 1
            assert isinstance(raised, DatastoreError)
            at, failed = layer.failed_sync
            later = layer.log[at:]
            assert ("sync", failed) not in later
            assert ("syncdir", failed) not in later
            assert not [entry for entry in later if entry[0] == "link"]
    assert tried == 7  # the directory's name; three files, and the directory after each


def test_short_writes_and_reads_are_continued(fault_layer, tmp_path, golden, small_job):
    path = tmp_path / "store"
    with fault_layer.installed(fault_layer.FaultLayer(0, fault_layer.short, onwards=True)) as layer:
        small_job.job(path, [])
    assert layer.trace.count("write") > 100
    assert small_job.files(path) == golden


def test_a_write_that_writes_nothing_is_an_error_and_no_endless_loop(fault_layer, golden, small_job, every_call):
    def nothing(layer, name, real, *args, **kwargs):
        return 0 if name == "write" else layer.do(name, real, *args, **kwargs)

    for layer, path, told, raised in every_call(nothing, onwards=False):
        if layer.failed_call == "write":
            assert "wrote no byte" in str(raised)
        small_job.check_holds(path, told, golden)


@pytest.mark.parametrize("half_way", [False, True], ids=["before the call", "half way through it"])
def test_a_process_that_is_killed_at_any_call_loses_nothing_it_had_told_and_resumes_to_the_same_bytes(
    half_way, fault_layer, golden, small_job, every_call
):
    fault = fault_layer.killed_half_way if half_way else fault_layer.killed
    for _, path, told, raised in every_call(fault, onwards=True):
        assert isinstance(raised, fault_layer.Killed)
        small_job.check_holds(path, told, golden)
        with fault_layer.installed(fault_layer.FaultLayer()):
            small_job.job(path, told)
        assert small_job.files(path) == golden


def test_a_process_that_is_killed_again_and_again_gets_there(fault_layer, tmp_path, golden, small_job):
    """The same store, killed at call 0, then resumed and killed at call 1, and so on."""
    path, told = tmp_path / "store", []
    for at in range(1000):
        layer = fault_layer.FaultLayer(at, fault_layer.killed, onwards=True)
        with suppress(fault_layer.Killed), fault_layer.installed(layer):
            small_job.job(path, told)
        small_job.check_holds(path, told, golden)
        if layer.failed_call is None:
            break
    assert small_job.files(path) == golden
