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


@pytest.mark.parametrize("proj_dim", [256, 8192, 65536])
def test_scratch_for_the_longest_list_of_rows_is_enough_for_shorter_ones(proj_dim):
    from gradsift import _native

    # Of 4,096 columns, about where slices begin to be longer than the shortest; a sample of fewer rows may have more.
    longest = [8 << shift for shift in range(18)]
    rows = sorted({r + more for r in longest for more in (-1, 0, 1, 16)})
    needed = [
        _native.cuda_project_rows_scratch(samples=2, rows=r, cols=4096, proj_dim=proj_dim)  # by the slices there are
        for r in rows
    ]
    assert needed == sorted(needed)
    assert needed[-1] == 2 * 1024 * (proj_dim * 4 + max(1, proj_dim // 8192) * 16)


def test_address_and_undefined_behaviour_sanitizers_find_nothing(run_emulated):
    assert passed(run_emulated("cases_project_rows.py", "few", order="random", copies="coin", variant="address")) > 100


@pytest.mark.slow
def test_thread_sanitizer_finds_no_race(run_emulated):
    assert passed(run_emulated("cases_project_rows.py", "tiny", variant="thread", timeout=900)) == 6
