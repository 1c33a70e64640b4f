"""`project_rows` on CUDA without a card: the kernels as they are launched from Python, on the emulator."""

import re

import pytest

pytestmark = pytest.mark.driver

ORDERS = [("forward", "late"), ("reverse", "early"), ("random", "coin")]


def passed(output):
    return int(re.search(r"^(\d+) cases, 0 failed$", output, re.MULTILINE).group(1))


def bits(output):
    """Of all results on floats."""
    return re.search(r"^floats (\w+)$", output, re.MULTILINE).group(1)


def test_emulated_kernels_agree_with_the_reference_and_no_order_of_warps_changes_a_bit(run_emulated):
    outputs = [run_emulated("cases_project_rows.py", order=order, copies=copies) for order, copies in ORDERS]
    assert min(map(passed, outputs)) > 400
    assert len(set(map(bits, outputs))) == 1


def test_address_and_undefined_behaviour_sanitizers_find_nothing(run_emulated):
    assert passed(run_emulated("cases_project_rows.py", "few", order="random", copies="coin", variant="address")) > 100


@pytest.mark.slow
def test_thread_sanitizer_finds_no_race(run_emulated):
    assert passed(run_emulated("cases_project_rows.py", "tiny", variant="thread", timeout=900)) == 6
