"""The script of a first run on a GPU, with stand-ins for every program that it calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("python", "cmake", "ninja", "cp", "compute-sanitizer")
# Notes its call, waits where GRADSIFT_SLOW is part of it, and fails where GRADSIFT_FAILS is.
PROGRAM = """#!/usr/bin/env bash
call="$(basename "$0") $*"
echo "$call" >> "$CALLS"
[ "$(basename "$0")" != compute-sanitizer ] || echo "caching off: ${PYTORCH_NO_CUDA_MEMORY_CACHING:-no}" >> "$CALLS"
[ -z "${GRADSIFT_SLOW:-}" ] || [[ "$call" != *"$GRADSIFT_SLOW"* ]] || sleep 60
[ -z "${GRADSIFT_FAILS:-}" ] || [[ "$call" != *"$GRADSIFT_FAILS"* ]]
"""


@pytest.fixture
def first_run(tmp_path: Path):
    """`first_run(*words, **environment)`: (the finished process, the calls that it made, seconds)."""
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        program = tmp_path / "bin" / name
        program.write_text(PROGRAM, encoding="utf-8")
        program.chmod(0o755)
    (tmp_path / "benchmarks").mkdir()
    script = shutil.copy(ROOT / "benchmarks/gpu_first_run.sh", tmp_path / "benchmarks")

    def run(*words: str, **environment: str):
        calls = tmp_path / "calls"
        calls.write_text("", encoding="utf-8")
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "CALLS": str(calls), **environment}
        began = time.monotonic()
        done = subprocess.run(
            ["bash", script, *words], env=env, capture_output=True, text=True, timeout=50, check=False
        )
        return done, calls.read_text("utf-8").splitlines(), time.monotonic() - began

    return run


def position(calls, part):
    return next(i for i, call in enumerate(calls) if part in call)


def test_everything_is_done_in_turn(first_run):
    done, calls, _ = first_run()
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = [
        "cmake ",
        "ninja ",
        " machine ",
        "pytest ",
        "import torch, sjlt",
        " measure ",
        "compute-sanitizer ",
        "report.py",
    ]
    assert sorted(wanted, key=lambda part: position(calls, part)) == wanted


def test_the_sanitizer_sees_the_ends_of_tensors(first_run):
    _, calls, _ = first_run()
    assert {call for call in calls if call.startswith("caching off")} == {"caching off: 1"}
    assert sum("--tool memcheck" in call or "--tool racecheck" in call for call in calls) == 2


def test_a_step_that_hangs_leaves_the_whole_within_its_time(first_run):
    done, calls, seconds = first_run(GRADSIFT_SLOW="pytest -q -m gpu", GRADSIFT_FIRST_RUN_SECONDS="3")
    assert done.returncode == 1
    assert "tests failed (124)" in done.stdout
    assert seconds < 30
    assert "report.py" in calls[-1]


def test_a_step_for_which_no_time_is_left_is_not_begun(first_run):
    done, calls, _ = first_run(GRADSIFT_SLOW="pytest -q -m gpu", GRADSIFT_FIRST_RUN_SECONDS="3")
    assert "measure failed (124)" in done.stdout
    assert not any(" measure " in call for call in calls)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("import triton", "tools: expected triton in "),
        ("Python.h", "tools: expected Python.h, got none"),
        ("transformers", "tools are missing"),
        ("cmake -S", "the build failed"),
    ],
)
def test_without_tools_or_build_nothing_goes_on(first_run, fails, says):
    done, calls, _ = first_run(GRADSIFT_FAILS=fails)
    assert done.returncode == 1
    assert says in done.stdout + done.stderr
    assert not any(" machine " in call for call in calls)


def test_a_step_that_fails_does_not_stop_those_after_it(first_run):
    done, calls, _ = first_run(GRADSIFT_FAILS="pytest -q -m gpu")
    assert done.returncode == 1
    assert "tests failed (1)" in done.stdout
    assert any(" measure " in call for call in calls)


def test_quick_leaves_out_the_sanitizer_and_the_peers(first_run):
    done, calls, _ = first_run("--quick")
    assert done.returncode == 0
    assert not any("compute-sanitizer" in call or "sjlt" in call for call in calls)


def test_an_unknown_word_is_refused(first_run):
    done, calls, _ = first_run("--fast")
    assert done.returncode == 2
    assert "expected --quick, --dry-run or nothing, got --fast" in done.stderr
    assert calls == []


def test_a_warning_of_another_package_fails_no_test_marked_gpu(tmp_path):
    """By hand as in the script: torch warns of the very mode that looks for waiting, and of TF32 not being used."""
    pytest.importorskip("torch")
    shutil.copy(ROOT / "tests/gpu/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import warnings\nimport pytest\nimport torch\ntorch.cuda.is_available = lambda: True\n"
        "@pytest.mark.gpu\ndef test_it():\n    warnings.warn('a prototype')\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command += ["-m", "gpu", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
