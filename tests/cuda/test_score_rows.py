"""`score_rows` on CUDA without a card: the kernels as they are launched from Python, on the emulator."""

import re

import pytest

pytestmark = pytest.mark.driver

ORDERS = [("forward", "late"), ("reverse", "early"), ("random", "coin")]


def passed(output):
    return int(re.search(r"^(\d+) cases, 0 failed$", output, re.MULTILINE).group(1))


@pytest.mark.parametrize(("order", "copies"), ORDERS)
def test_kernels_agree_with_the_reference_in_every_order_of_warps(run_emulated, order, copies):
    assert passed(run_emulated("cases_score_rows.py", order=order, copies=copies)) > 500


def test_cards_of_99_kib_of_shared_memory_get_columns_in_groups_that_fit(emulator, program):
    """sm_86, sm_89 and sm_120, which run the kernels of sm_80 and sm_100."""
    done = program(emulator(), "cases_score_rows.py", "few", GRADSIFT_MOCK_SHARED=99 << 10)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert passed(done.stdout) > 300


def test_address_and_undefined_behaviour_sanitizers_find_nothing(run_emulated):
    assert passed(run_emulated("cases_score_rows.py", "tiny", order="random", copies="coin", variant="address")) > 20


@pytest.mark.slow
def test_thread_sanitizer_finds_no_race(run_emulated):
    assert passed(run_emulated("cases_score_rows.py", "few", variant="thread", timeout=1800)) > 300
