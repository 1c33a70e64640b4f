"""docs/performance.md is what its generator makes of the recorded results, and its verdicts follow from the figures."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RUN = {
    "commit": {"id": "0123456789ab", "date": "2026-01-01", "dirty": False},
    "date": "2026-01-01",
    "command": "python -m pytest benchmarks/bench_project_linear.py",
    "machine": {
        "cpu": "a CPU",
        "isa": ["avx2"],
        "cores": 2,
        "caches": {"L2": "1M"},
        "memory_gib": 1,
        "system": "Linux",
    },
    "software": {
        "versions": {"numpy": "2"},
        "numpy_blas": "OpenBLAS",
        "torch_libraries": ["MKL"],
        "our_isa": "avx2",
        "torch_threads": 2,
    },
}


def gemm_case(ratio: float) -> dict[str, Any]:
    return {
        "case": f"16x576 T{int(100 * ratio)} B16",
        "ratio": ratio,
        "ours_gflops": 90,
        "peer_gflops": 100,
        "path": "MKL",
    }


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("make_performance")


def page_of(generator: ModuleType, ratios: list[float]) -> str:
    run = copy.deepcopy(RUN) | {"cases": [gemm_case(ratio) for ratio in ratios]}
    return str(generator.page({"some-machine": {"project_linear": {"fp32_adam_to_gemm": run}}}))


def line_of(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(f"| {start}"))


def test_the_page_is_what_the_generator_makes_of_the_results(generator: ModuleType) -> None:
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(generator.load(generator.RESULTS))


def test_a_goal_is_met_by_the_geometric_mean_and_missed_by_the_worst_shape(generator: ModuleType) -> None:
    page = page_of(generator, [0.5, 2.0])
    assert line_of(page, "fp32, exact Adam").endswith("| 1 | met |")
    assert line_of(page, "fp32, exact Adam, worst shape").endswith("| 2 | **missed** |")


def test_what_is_missed_is_said_under_where_we_lose_with_its_shapes(generator: ModuleType) -> None:
    losses = page_of(generator, [1.0, 2.0]).split("### Where we lose")[1].split("###")[0]
    assert "worst shape: 2, where 1.3 was wanted" in losses
    assert "16x576 T200 B16 (2.00)" in losses
    assert "T100" not in losses


def test_nothing_is_lost_where_all_goals_are_met(generator: ModuleType) -> None:
    assert "Where we lose" not in page_of(generator, [0.9, 1.0])


def test_a_goal_that_was_not_measured_has_no_verdict(generator: ModuleType) -> None:
    assert line_of(page_of(generator, [1.0]), "two threads").endswith("| ≥ 1.8 | | not measured |")


def test_command_and_commit_stand_beside_the_figures(generator: ModuleType) -> None:
    page = page_of(generator, [1.0])
    assert "`python -m pytest benchmarks/bench_project_linear.py`, commit 0123456789ab:" in page


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({}, "Load not recorded. `python"),
        ({"load": {"before": 0.25, "after": 1.5}}, "Load 0.25 before, 1.5 after. `python"),
        ({"note": "a test run had the other core"}, "Load not recorded; a test run had the other core. `python"),
    ],
)
def test_what_else_the_machine_was_at_stands_beside_the_figures(
    generator: ModuleType, recorded: dict[str, Any], said: str
) -> None:
    run = copy.deepcopy(RUN) | recorded | {"cases": [gemm_case(1.0)]}
    assert said in generator.page({"some-machine": {"project_linear": {"fp32_adam_to_gemm": run}}})


def test_every_goal_names_a_test_function_of_its_benchmark(generator: ModuleType) -> None:
    for goal in generator.GOALS:
        source = (ROOT / "benchmarks" / f"bench_{goal.topic}.py").read_text(encoding="utf-8")
        assert f"def test_{goal.group}(" in source, goal


def test_a_floor_on_a_card_is_the_longer_of_moving_and_computing(generator: ModuleType) -> None:
    rooflines = importlib.import_module("gpu_rooflines")
    moving = rooflines.Call("op", "case", 3.35e12, 989e12 / 2, "bf16")
    computing = rooflines.Call("op", "case", 3.35e12 / 2, 989e12 * 2, "bf16")
    assert moving.seconds("H100") == (1.0, "bytes")
    assert computing.seconds("H100") == (2.0, "operations")


def test_the_floors_of_cards_are_said_to_be_computed(generator: ModuleType) -> None:
    section = generator.page({}).split("## GPUs: ")[1]
    assert section.startswith("computed, not measured")
    # 16 samples of 512 tokens of 4096 + 128 numbers of 2 bytes, two moments of 4, 16 sketches of 8192 numbers of 4
    assert 16 * 512 * (4096 + 128) * 2 + 2 * 4 * 128 * 4096 + 16 * 8192 * 4 == 73_924_608
    assert "| `project_linear` | 128 × 4096, 16 samples of 512 tokens, bf16, Adam | 74 |" in section
