"""Several processes that collect one run share the work, and leave what one of them alone leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import gradsift as gs
from gradsift.errors import GradsiftError
from gradsift.pipeline import parse_config
from gradsift.pipeline.rundir import RunDirectory

HERE = Path(__file__).parent
ROWS = 30
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(gs.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@pytest.fixture
def start() -> Any:
    """Starts ``python ARGUMENTS``, its output into a file if one is named; what runs on after the test is killed."""
    children = []

    def started(*arguments: object, said: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, *map(str, arguments)]
        with open(said or os.devnull, "w") as file:
            stdout = file if said else subprocess.PIPE
            children.append(
                subprocess.Popen(command, env=ENVIRONMENT, text=True, stdout=stdout, stderr=subprocess.STDOUT)
            )
        return children[-1]

    yield started
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def ended(process: subprocess.Popen[str]) -> str:
    """What a process that must succeed printed."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def collected(log: Path) -> list[tuple[int, int]]:
    """(process, sample) of all that went through a collector."""
    return [tuple(map(int, line.split())) for line in log.read_text().splitlines()] if log.exists() else []


def files(folder: Path) -> dict[str, bytes]:
    """Of all stores below `folder`; the notes of the steps beside them count what each process did."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.parent.suffix != ".step"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def wait_for(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_collectors_make_every_sample_once_and_take_over_what_a_killed_one_had(start: Any, tmp_path: Path) -> None:
    script, store, log = HERE / "sharing_collector.py", tmp_path / "store", tmp_path / "log"
    dying = start(script, store, log, 8)
    wait_for(lambda: (dying.pid, 8) in collected(log))
    said = [tmp_path / "said by one", tmp_path / "said by another"]
    others = [start(script, store, log, said=file) for file in said]
    wait_for(lambda: any("units are left, all at other processes: waiting" in file.read_text() for file in said))
    assert len({sample for _, sample in collected(log)}) == ROWS
    assert not list(store.glob("shard-000000000000008-*"))
    dying.kill()
    dying.communicate()
    for other in others:
        ended(other)
    lost = range(8, 12)  # began in the killed process, and again in another
    assert Counter(s for pid, s in collected(log) if pid != dying.pid or s not in lost) == Counter(range(ROWS))

    ended(start(script, tmp_path / "alone", tmp_path / "log of one"))
    assert files(store) == files(tmp_path / "alone")


@pytest.mark.slow
def test_the_collect_command_run_twice_at_once_shares_the_work(
    start: Any, make_record: Any, as_toml: Any, tmp_path: Path
) -> None:
    outputs = {}
    for name, count in (("one", 1), ("two", 2)):
        record = make_record(tmp_path / name)
        (tmp_path / name / "config.toml").write_text(as_toml(record), encoding="utf-8")
        command = ("-m", "gradsift", "collect", tmp_path / name / "config.toml")
        processes = [start(*command) for _ in range(count)]
        outputs[name] = [ended(process) for process in processes]
    warmed = ["warm-up: LoRA" in output for output in outputs["two"]]
    assert sorted(warmed) == [False, True]
    stores = [tmp_path / name / "run/stores" for name in ("one", "two")]
    assert files(stores[0]) == files(stores[1])
    assert len(list(stores[1].glob("*/pool/*.gs"))) == 2 * 5


def test_a_run_that_collectors_share_is_refused_to_others_and_the_other_way_round(record: dict[str, Any]) -> None:
    directory = RunDirectory.prepare(parse_config(record, base=Path("/")))
    said: list[str] = []
    with (
        directory.shared(said.append),
        directory.shared(said.append),
        pytest.raises(GradsiftError, match="expected no other process at work"),
        directory.locked(),
    ):
        pass
    with (
        directory.locked(),
        pytest.raises(GradsiftError, match="only `gradsift collect` shares"),
        directory.shared(said.append),
    ):
        pass
    assert said == []


def test_what_a_dead_process_half_wrote_is_cleared_by_the_first_collector_alone(record: dict[str, Any]) -> None:
    directory = RunDirectory.prepare(parse_config(record, base=Path("/")))
    orphan = directory.root / ".tmp-orphan"
    orphan.write_text("half")
    with directory.shared(print):
        assert not orphan.exists()
        orphan.write_text("of a process at work")
        with directory.shared(print):
            assert orphan.exists()
