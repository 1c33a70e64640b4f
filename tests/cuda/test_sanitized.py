"""What compute-sanitizer is given on a card (tests/gpu/test_sanitizer.py) launches every kernel there is."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.driver
BUDGETS = Path(__file__).with_name("budgets")


def test_the_calls_for_compute_sanitizer_launch_every_kernel(emulator, program, tmp_path):
    log = tmp_path / "launches"
    done = program(emulator(), "cases_sanitizer.py", GRADSIFT_MOCK_LOG=log)
    assert done.returncode == 0, done.stdout + done.stderr
    launched = {line.split()[0] for line in log.read_text("utf-8").splitlines()}
    every = {name for path in BUDGETS.glob("*.json") for name in json.loads(path.read_text("utf-8"))["kernels"]}
    assert every - launched == set()
