"""The page of a first run on a GPU says what passed, what failed, and what was measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MACHINE = {
    "card": "NVIDIA H100 80GB HBM3",
    "driver": "580.1",
    "commit": "0123456789ab",
    "dry_run": False,
    "backends": {},
}
CASE = {
    "op": "project_rows",
    "case": "8 x 4096",
    "bytes": 1,
    "operations": 0,
    "floor": 1e-4,
    "per": [8, "sample"],
    "seconds": {"gradsift": 2e-4, "torch index_add_": 1e-3},
}
JUNIT = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1">
<testcase classname="tests.gpu.test_x" name="test_a"/>
<testcase classname="tests.gpu.test_x" name="test_b">
<failure message="AssertionError: 3 `differ`&#10;at (0, 1)">…</failure></testcase>
<testcase classname="tests.gpu.test_x" name="test_c"><skipped/></testcase></testsuite></testsuites>"""


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_report")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "machine.json").write_text(json.dumps(MACHINE))
    (tmp_path / "steps.tsv").write_text("build\t0\t41\ntests\t1\t60\nsanitizer\t127\t0\nmeasure\t124\t480\n")
    (tmp_path / "tests.xml").write_text(JUNIT)
    write_measured(tmp_path, [CASE])
    return tmp_path


def write_measured(folder: Path, cases: list[dict[str, Any]], errors: dict[str, str] | None = None) -> None:
    rates = {"bytes_per_second": 3e12, "operations_per_second": {"bfloat16": 8e14}}
    (folder / "measured.json").write_text(json.dumps(rates | {"cases": cases, "errors": errors or {}}))


def test_the_page_is_named_by_the_card(report: ModuleType, folder: Path, tmp_path: Path) -> None:
    path = report.main(folder, tmp_path / "not" / "there yet")
    assert path.name == "gpu-h100-80gb-hbm3.md"
    assert path.read_text().startswith("# NVIDIA H100 80GB HBM3\n")


def test_steps_say_how_they_ended(report: ModuleType, folder: Path) -> None:
    text = report.page(folder)[1]
    assert "| build | passed | 41 s |" in text
    assert "| tests | **failed (1)** | 60 s |" in text
    assert "| sanitizer | not run: a tool is missing | 0 s |" in text
    assert "| measure | **out of time** | 480 s |" in text
    assert "3 tests, 1 failed, 1 skipped." in text
    assert "- failed: `tests.gpu.test_x::test_b`: `AssertionError: 3 'differ' at (0, 1)`\n" in text


def test_the_ends_of_the_logs_of_failed_steps_are_on_the_page(report: ModuleType, folder: Path) -> None:
    for name in ("build", "tests", "sanitizer", "measure"):
        (folder / f"{name}.log").write_text("".join(f"{name} line {k}\n" for k in range(200)))
    text = report.page(folder)[1]
    assert "tests line 199\n" in text
    assert "measure line 199\n" in text
    assert "tests line 0\n" not in text
    assert "build line" not in text
    assert "sanitizer line" not in text


def test_times_stand_beside_their_floor_and_their_peers(report: ModuleType, folder: Path) -> None:
    assert "| 8 x 4096 | 200 µs | 100 µs | 0.50 | 1 ms (5.00 ×) | 25 µs a sample |" in report.page(folder)[1]


def test_an_op_that_could_not_be_measured_is_named(report: ModuleType, folder: Path) -> None:
    write_measured(folder, [CASE], {"quantise": "RuntimeError: no"})
    assert "**quantise could not be measured**: `RuntimeError: no`" in report.page(folder)[1]


def test_a_dry_run_says_that_nothing_was_measured(report: ModuleType, folder: Path, tmp_path: Path) -> None:
    (folder / "machine.json").write_text(json.dumps({"commit": "0", "dry_run": True, "backends": {}}))
    (folder / "measured.json").unlink()
    assert report.main(folder, tmp_path).name == "gpu-dry-run.md"
    assert "nothing was measured" in report.page(folder)[1].splitlines()[0]
