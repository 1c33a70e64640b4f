"""Options, and the record that a run leaves: ``benchmarks/results/<machine>-<topic>.json``, one group a test function.

A group is replaced as a whole, with the commit, machine and command it was measured with; a test function of which only
some cases were run is printed, not recorded.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# The benchmarks import each other by plain names; an installed gradsift wins over the tree's where there is one.
sys.path.insert(0, str(HERE))
sys.path.append(str(HERE.parent / "python"))

import torch  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

import machine  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradsift")
    group.addoption("--record", action="store_true", help="write benchmarks/results/<machine>-<topic>.json")
    group.addoption("--results", default=str(HERE / "results"), help="the folder to write into")
    group.addoption("--seconds", type=float, default=1.0, help="of a case's alternating rounds (kernels)")
    group.addoption("--model", default=None, help="folder of a causal language model; default: GRADSIFT_BENCH_MODEL")
    group.addoption("--data", default=None, help="chat JSONL file or folder; default: recorded lengths")
    group.addoption("--samples", type=int, default=8, help="samples a round of the collector's benchmarks")
    group.addoption("--rounds", type=int, default=3, help="rounds of the collector's benchmarks")
    group.addoption("--max-tokens", type=int, default=2048, help="tokens a batch of the collector's benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    if found := machine.overrides():
        raise pytest.UsageError(f"environment: expected the libraries' own choices, got {', '.join(found)}; unset them")
    config.stash[RECORDS] = {}
    config.stash[PARTIAL] = set()


RECORDS = pytest.StashKey[dict[tuple[str, str], list[dict[str, Any]]]]()
PARTIAL = pytest.StashKey[set[tuple[str, str]]]()


def _group_of(item: pytest.Item) -> tuple[str, str]:
    """(topic, group): ``bench_<topic>.py::test_<group>``."""
    return item.path.stem.removeprefix("bench_"), getattr(item, "originalname", item.name).removeprefix("test_")


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[PARTIAL].add(_group_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed or report.skipped:
        item.config.stash[PARTIAL].add(_group_of(item))
    return report


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["gradsift"] = {"machine": machine.describe(), "software": machine.software()}


@pytest.fixture
def record(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """``record(case, **figures)``: one line on the screen, one entry in the record."""

    def add(case: str, **figures: Any) -> None:
        group = _group_of(request.node)
        request.config.stash[RECORDS].setdefault(group, []).append({"case": case, **figures})
        with capsys.disabled():
            print(f"\n{group[1]} | {case} | {json.dumps(figures)}", end="", flush=True)

    return add


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch's, OpenBLAS's and OpenMP's pools at one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    return float(request.config.getoption("--seconds"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if not config.getoption("--record"):
        return
    folder = Path(config.getoption("--results"))
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "commit": machine.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "command": "python -m pytest " + " ".join(map(_quoted, config.invocation_params.args)),
        "machine": machine.describe(),
        "software": machine.software(),
    }
    said = []
    for (topic, group), cases in config.stash[RECORDS].items():
        path = folder / f"{machine.slug()}-{topic}.json"
        if (topic, group) in config.stash[PARTIAL]:
            said.append(f"{group}: not recorded, since not all of its cases were run and passed")
            continue
        runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        runs[group] = {**about, "cases": cases}
        path.write_text(_compact(runs), encoding="utf-8")
        said.append(f"{group}: {len(cases)} cases recorded in {path}")
    print("\n" + "\n".join(said))


def _quoted(word: object) -> str:
    """An argument as it was given, private folders apart: a model's or data set's place says nothing to a reader."""
    text = str(word)
    for option in ("--model", "--data", "--results"):
        if text.startswith(f"{option}="):
            return f"{option}=FOLDER"
    return shlex.quote(text)


def _compact(runs: dict[str, Any]) -> str:
    """JSON with a line for each case, so that a diff shows what moved."""
    parts = []
    for group, run in sorted(runs.items()):
        head = json.dumps({k: v for k, v in run.items() if k != "cases"}, indent=1, sort_keys=True)[:-2]
        cases = ",\n".join("  " + json.dumps(case) for case in run["cases"])
        parts.append(f'{json.dumps(group)}: {head},\n "cases": [\n{cases}\n ]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
