"""What a benchmark run records: whole groups, each as it ends, with the load of the machine."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ONE, OTHER = ("topic", "one"), ("topic", "other")


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("recording")


@pytest.fixture
def recorder(recording: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    loads = iter([0.251, 1.5, 2.0, 3.0])
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 9.0, 9.0))
    made = recording.Recorder(tmp_path / "results", "machine", lambda: {"commit": "0123"})
    for key in (ONE, ONE, OTHER, OTHER):
        made.expect(key)
    return made


def run(recorder: Any, key: tuple[str, str], case: str) -> str | None:
    recorder.begin(key)
    recorder.add(key, {"case": case})
    return recorder.end(key)


def groups(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results" / "machine-topic.json").read_text(encoding="utf-8"))


def test_a_group_is_on_disk_once_its_last_case_ended_and_one_that_is_cut_off_is_not(
    recorder: Any, tmp_path: Path
) -> None:
    assert run(recorder, ONE, "a") is None
    assert not (tmp_path / "results").exists()
    assert "one: 2 cases recorded in" in run(recorder, ONE, "b")
    assert run(recorder, OTHER, "a") is None
    expected = {"commit": "0123", "load": {"before": 0.25, "after": 1.5}, "cases": [{"case": "a"}, {"case": "b"}]}
    assert groups(tmp_path) == {"one": expected}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["machine-topic.json"]


def test_a_group_replaces_its_old_record_and_no_other(recorder: Any, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    old = {name: {"commit": "old", "cases": [{"case": "old"}]} for name in ("one", "third")}
    (tmp_path / "results" / "machine-topic.json").write_text(json.dumps(old), encoding="utf-8")
    run(recorder, ONE, "a")
    run(recorder, ONE, "b")
    assert groups(tmp_path)["one"]["cases"] == [{"case": "a"}, {"case": "b"}]
    assert groups(tmp_path)["third"] == old["third"]


def test_a_group_of_which_a_case_failed_or_was_left_out_is_not_recorded(recorder: Any, tmp_path: Path) -> None:
    recorder.spoil(ONE)
    run(recorder, ONE, "a")
    assert "not recorded" in run(recorder, ONE, "b")
    assert not (tmp_path / "results").exists()


def test_a_recorded_command_names_no_private_folder(recording: ModuleType) -> None:
    given = ["b.py", "--model=/home/me/model", "--data", "/home/me/data", "-k", "one or two", "--rounds=3"]
    said = "python -m pytest b.py --model=FOLDER --data FOLDER -k 'one or two' --rounds=3"
    assert recording.command(given) == said
