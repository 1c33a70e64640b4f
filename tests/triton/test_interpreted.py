"""Runs interpreted/ in a process of its own: Triton reads TRITON_INTERPRET once, when kernels are defined."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install 'gradsift[test]'"
)


def run_interpreted(*arguments):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("GRADSIFT_BACKEND", None)
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=900, check=False
    )


def test_the_interpreted_kernels_agree_with_the_reference():
    done = run_interpreted("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 25
    assert "skipped" not in done.stdout


@pytest.fixture(scope="module")
def guarded():
    done = run_interpreted(str(HERE / "run_guarded.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_nothing_is_touched_beyond_the_ends_of_tensors(guarded):
    assert guarded["as it is"] == "ok"


def test_planted_bugs_are_caught(guarded):
    """A missing mask by the page that it reads, the rest by the integers."""
    planted = {name: answer for name, answer in guarded.items() if name != "as it is"}
    assert len(planted) >= 8
    reads = {name: answer for name, answer in planted.items() if "beyond" in name}
    assert set(reads.values()) == {"fault"}, reads
    assert {planted[name] for name in planted.keys() - reads.keys()} == {"wrong"}, planted
