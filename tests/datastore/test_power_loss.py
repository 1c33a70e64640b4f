"""After the power went at any moment, what `commit()` had promised is there, and nothing is there that is not true."""

from __future__ import annotations

import shutil
from contextlib import suppress

import numpy as np
import pytest


class Told(list):
    """Notes in the log how many rows were said to be committed, and when."""

    def __init__(self, layer):
        self._layer = layer

    def __setitem__(self, _, rows):
        self._layer.log.append(("told", len(rows)))


@pytest.fixture
def check_after_loss(tmp_path, small_job, fault_layer):
    """Puts a disk's state into a directory, reads it, and finishes the job there; passes over states seen before."""
    small_job.job(tmp_path / "golden", [])
    golden = small_job.files(tmp_path / "golden")
    seen = set()
    path = tmp_path / "after"

    def check(state, told):
        key = (told, state if state is None else frozenset(state.items()))
        if key in seen:
            return
        seen.add(key)
        shutil.rmtree(path, ignore_errors=True)
        if state is not None:
            path.mkdir()
            for name, raw in state.items():
                (path / name).write_bytes(raw)
        small_job.check_holds(path, range(told), golden)
        with fault_layer.installed(fault_layer.FaultLayer()):
            small_job.job(path, [])
        assert small_job.files(path) == golden

    check.seen = seen
    return check


def test_at_any_moment_of_a_job(tmp_path, small_job, fault_layer, power_loss, check_after_loss):
    with fault_layer.installed(fault_layer.FaultLayer()) as layer:
        small_job.job(tmp_path / "store", Told(layer))
    disk, told, rng = power_loss.Disk(tmp_path / "store"), 0, np.random.default_rng(0)
    for entry in layer.log:
        if entry[0] == "told":
            told = entry[1]
        else:
            disk.apply(entry)
        for state in disk.states(rng):
            check_after_loss(state, told)
    assert told == 6
    assert len(check_after_loss.seen) > 80


def test_at_the_end_of_a_job_that_went_on_after_a_kill(tmp_path, small_job, fault_layer, power_loss, check_after_loss):
    """What the process before had not synced when it was killed is relied on by the next, and must be durable too."""
    rng, at = np.random.default_rng(1), 0
    while True:
        path = tmp_path / f"store {at}"
        killed = fault_layer.FaultLayer(at, fault_layer.killed, onwards=True)
        with suppress(fault_layer.Killed), fault_layer.installed(killed):
            small_job.job(path, Told(killed))
        with fault_layer.installed(fault_layer.FaultLayer(after=killed)) as layer:
            small_job.job(path, Told(layer))
        disk = power_loss.Disk(path)
        for entry in layer.log:
            if entry[0] != "told":
                disk.apply(entry)
        for state in disk.states(rng):
            check_after_loss(state, 6)
        if killed.failed_call is None:
            break
        at += 1
    assert at > 50


def test_the_simulated_disk_loses_what_is_not_synced(tmp_path, power_loss):
    disk, rng = power_loss.Disk(tmp_path / "store"), np.random.default_rng(0)
    for entry in (
        ("mkdir", str(tmp_path / "store")),
        ("create", 1, "a"),
        ("write", 1, 0, b"x" * 1024),
        ("sync", 1),
        ("write", 1, 1024, b"y" * 1024),
    ):
        disk.apply(entry)
    states = list(disk.states(rng))
    assert None in states
    assert {} in states
    contents = {state["a"] for state in states if state}
    assert {b"x" * 1024, b"x" * 1024 + bytes(1024), b"x" * 1024 + b"y" * 1024} < contents
    assert all(content.startswith(b"x" * 1024) for content in contents), "what was synced stays"
    disk.apply(("syncdir", str(tmp_path)))
    disk.apply(("sync", 1))
    disk.apply(("syncdir", str(tmp_path / "store")))
    assert list(disk.states(rng)) == [{"a": b"x" * 1024 + b"y" * 1024}]
