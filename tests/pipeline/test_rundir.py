"""The run directory: what it refuses, what it remembers, and that nothing is ever half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradsift.errors import ConfigError, GradsiftError
from gradsift.pipeline import parse_config, rundir
from gradsift.pipeline.rundir import RunDirectory, differences


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    record: dict[str, Any] = {
        "run_dir": str(tmp_path / "run"),
        "model": {"path": "some/model"},
        "pool": {"sources": ["pool.jsonl"]},
        "targets": {"skill": {"sources": ["few.jsonl"]}},
    }
    return RunDirectory.prepare(parse_config(record, base=tmp_path))


def test_the_directory_explains_itself(directory: RunDirectory) -> None:
    directory.write_down()
    text = (directory.root / "README.md").read_text(encoding="utf-8")
    assert "| `warmup/checkpoint-STEP/` |" in text
    assert (directory.root / "config.json").is_file()


def test_a_directory_with_other_things_in_it_is_refused(directory: RunDirectory, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious", encoding="utf-8")
    config = directory.config.model_copy(update={"run_dir": str(other)})
    with pytest.raises(ConfigError, match="expected an empty directory or one of an earlier run"):
        RunDirectory.prepare(config)
    assert sorted(p.name for p in other.iterdir()) == ["thesis.tex"]


def test_litter_of_a_first_write_that_was_killed_is_no_obstacle(directory: RunDirectory) -> None:
    (directory.root / ".tmp-0123").write_text("half", encoding="utf-8")
    with RunDirectory.prepare(directory.config).locked():
        assert not (directory.root / ".tmp-0123").exists()


def test_litter_of_a_killed_process_is_removed_but_not_what_a_datastore_looks_after(directory: RunDirectory) -> None:
    litter = [directory.warmup / ".tmp-1", directory.pool_store("c").with_name("pool.step") / ".tmp-2"]
    kept = [directory.pool_store("c") / ".tmp-3", directory.target_store("c", "skill") / ".tmp-4"]
    for path in (*litter, *kept):
        path.parent.mkdir(parents=True)
        path.write_text("half", encoding="utf-8")
    with directory.locked():
        assert [path.exists() for path in litter] == [False, False]
        assert [path.exists() for path in kept] == [True, True]


def test_what_a_killed_process_made_and_did_not_sync_is_synced(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.pool_store("c").mkdir(parents=True)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    with directory.locked():
        stores = directory.root / "stores"
        assert synced == [str(path) for path in (directory.root.parent, directory.root, stores, stores / "c")]


def test_a_step_that_another_process_finishes_meanwhile_is_done(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = directory.warmup
    directory.begin(step, {"a": 1})
    original = rundir.read_json

    def slow(path: Path) -> Any:
        if path.name == "begun.json":
            directory.finish(step, {"a": 1})
        return original(path)

    monkeypatch.setattr(rundir, "read_json", slow)
    assert directory.is_done(step, {"a": 1})


def test_a_place_where_no_directory_can_be_is_refused(directory: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    config = directory.config.model_copy(update={"run_dir": str(tmp_path / "file" / "run")})
    with pytest.raises(ConfigError, match="expected a directory that can be made and read"):
        RunDirectory.prepare(config)


def test_a_file_in_place_of_the_directory_is_refused(directory: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match="got a file"):
        RunDirectory.prepare(directory.config.model_copy(update={"run_dir": str(tmp_path / "file")}))


def test_a_step_of_another_configuration_is_refused_with_what_differs(directory: RunDirectory) -> None:
    directory.finish(directory.warmup, {"lora": {"r": 16}, "seed": 0})
    assert directory.is_done(directory.warmup, {"lora": {"r": 16}, "seed": 0})
    with pytest.raises(ConfigError, match=r"lora\.r: was 16, is 8"):
        directory.is_done(directory.warmup, {"lora": {"r": 8}, "seed": 0})


def test_a_step_begun_under_another_configuration_is_refused_too(directory: RunDirectory) -> None:
    directory.begin(directory.warmup, {"seed": 0})
    assert not directory.is_done(directory.warmup, {"seed": 0})
    with pytest.raises(ConfigError, match="seed: was 0, is 1"):
        directory.is_done(directory.warmup, {"seed": 1})


def test_two_processes_cannot_work_on_one_run(directory: RunDirectory) -> None:
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
        "sys.stdin.read()"
    )
    with directory.locked():
        pass
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(directory.root / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(GradsiftError, match="expected no other process"), directory.locked():
            pass
    finally:
        holder.stdin.close()
        holder.wait(timeout=10)
        holder.stdout.close()
    with directory.locked():
        pass


def test_differences_name_the_innermost_key() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}}) == [
        "a.c: was 2, is 3",
        "a.d: was None, is 4",
    ]
