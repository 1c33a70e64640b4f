"""The record that a run leaves: ``<folder>/<machine>-<topic>.json``, one group a test function.

A group is replaced as a whole, with the commit, machine and command it was measured with and the machine's load before
and after it, as soon as its last case ended: a run that is cut off keeps the groups it finished. A test function of
which only some cases were run, or did not pass, is not recorded.
"""

from __future__ import annotations

import json
import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str]
"""(topic, group): ``bench_<topic>.py::test_<group>``."""


@dataclass
class _Group:
    left: int = 0
    partial: bool = False
    before: float = 0.0
    cases: list[dict[str, Any]] = field(default_factory=list)


class Recorder:
    """Cases as they are measured, written to `folder` (None: nowhere) as ``<machine>-<topic>.json``.

    `about` is asked for a group's commit, command and the like when the group is written.
    """

    def __init__(self, folder: Path | None, machine: str, about: Callable[[], dict[str, Any]]) -> None:
        self._folder, self._machine, self._about = folder, machine, about
        self._groups: dict[Key, _Group] = defaultdict(_Group)

    def expect(self, key: Key) -> None:
        """One more case of the group will be run."""
        self._groups[key].left += 1

    def spoil(self, key: Key) -> None:
        """A case of the group will not be run, or did not pass."""
        self._groups[key].partial = True

    def begin(self, key: Key) -> None:
        group = self._groups[key]
        if not group.cases:
            group.before = _load()

    def add(self, key: Key, case: dict[str, Any]) -> None:
        self._groups[key].cases.append(case)

    def end(self, key: Key) -> str | None:
        """A case of the group has ended; after the last, what became of the group's record."""
        group = self._groups[key]
        group.left -= 1
        if self._folder is None or group.left:
            return None
        if group.partial or not group.cases:
            return f"{key[1]}: not recorded, since not all of its cases were run and passed"
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._machine}-{key[0]}.json"
        runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        load = {"before": group.before, "after": _load()}
        runs[key[1]] = {**self._about(), "load": load, "cases": group.cases}
        # In one step, so that a kill leaves the old record or the new one.
        whole = path.with_name(f".{path.name}.{os.getpid()}")
        whole.write_text(compact(runs), encoding="utf-8")
        whole.replace(path)
        return f"{key[1]}: {len(group.cases)} cases recorded in {path}"


def _load() -> float:
    """The machine's load average over the last minute."""
    return round(os.getloadavg()[0], 2)


def command(arguments: Iterable[object]) -> str:
    """How pytest was called, private folders apart: a model's or data set's place says nothing to a reader."""
    words = ["python", "-m", "pytest"]
    hidden = ("--model", "--data", "--results")
    for word in map(str, arguments):
        option, equals, _ = word.partition("=")
        if equals and option in hidden:
            words.append(f"{option}=FOLDER")
        else:
            words.append("FOLDER" if words[-1] in hidden else shlex.quote(word))
    return " ".join(words)


def compact(runs: dict[str, Any]) -> str:
    """JSON with a line for each case, so that a diff shows what moved."""
    parts = []
    for group, run in sorted(runs.items()):
        head = json.dumps({k: v for k, v in run.items() if k != "cases"}, indent=1, sort_keys=True)[:-2]
        cases = ",\n".join("  " + json.dumps(case) for case in run["cases"])
        parts.append(f'{json.dumps(group)}: {head},\n "cases": [\n{cases}\n ]}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"
