"""Options of the benchmarks, and the hooks that hand what they measure to `recording`."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_limits

# The benchmarks import each other by plain names; an installed gradsift wins over the tree's where there is one.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))

import machine
from recording import Key, Recorder, command

RESULTS = Path(__file__).resolve().parent / "results"
RECORDER = pytest.StashKey[Recorder]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gradsift")
    group.addoption("--record", action="store_true", help="write benchmarks/results/<machine>-<topic>.json")
    group.addoption("--results", default=str(RESULTS), help="the folder to write into")
    group.addoption("--note", default=None, help="said beside the figures, such as what else the machine was at")
    group.addoption("--seconds", type=float, default=1.0, help="of a case's alternating rounds (kernels)")
    group.addoption("--model", default=None, help="folder of SmolLM2-135M-Instruct; default: random weights")
    group.addoption("--data", default=None, help="chat JSONL file or folder; default: recorded lengths")
    group.addoption("--samples", type=int, default=2, help="samples a round of the collector's benchmarks")
    group.addoption("--rounds", type=int, default=3, help="rounds of the collector's benchmarks")
    group.addoption("--max-tokens", type=int, default=2048, help="tokens a batch of the collector's benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    if found := machine.overrides():
        raise pytest.UsageError(f"environment: expected the libraries' own choices, got {', '.join(found)}; unset them")
    get = config.getoption

    def about() -> dict[str, Any]:
        found = {
            "commit": machine.commit(),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "command": command(config.invocation_params.args),
            "machine": machine.describe(),
            "software": machine.software(),
        }
        return found | ({"note": get("--note")} if get("--note") else {})

    folder = Path(get("--results")) if get("--record") else None
    config.stash[RECORDER] = Recorder(folder, machine.slug(), about)


def _key(path: Path, name: str) -> Key:
    return path.stem.removeprefix("bench_"), name.partition("[")[0].removeprefix("test_")


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[RECORDER].spoil(_key(item.path, item.name))


def pytest_collection_finish(session: pytest.Session) -> None:
    recorder = session.config.stash[RECORDER]
    for item in session.items:
        recorder.expect(_key(item.path, item.name))
    for argument in session.config.args:
        # One case by its name: what is not collected is not deselected either.
        path, _, name = argument.partition("::")
        if "[" in name:
            recorder.spoil(_key(Path(path), name))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    recorder, key = item.config.stash[RECORDER], _key(item.path, item.name)
    recorder.begin(key)
    ran = yield
    if said := recorder.end(key):
        print(f"\n{said}", flush=True)
    return ran


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed or report.skipped:
        item.config.stash[RECORDER].spoil(_key(item.path, item.name))
    return report


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["gradsift"] = {"machine": machine.describe(), "software": machine.software()}


@pytest.fixture
def record(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """``record(case, **figures)``: one line on the screen, one entry in the record."""

    def add(case: str, **figures: Any) -> None:
        key = _key(request.node.path, request.node.name)
        request.config.stash[RECORDER].add(key, {"case": case, **figures})
        with capsys.disabled():
            print(f"\n{key[1]} | {case} | {json.dumps(figures)}", end="", flush=True)

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
