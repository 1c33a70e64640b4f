"""Writes docs/results/gpu-<card>.md from what `gpu_first_run.sh` left in a folder.

python benchmarks/gpu_report.py FOLDER docs/results
"""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from performance_tables import table

# Lines of a failed step's log that the page has, and characters of a failed test's message.
SAID_LINES = 80
SAID_CHARACTERS = 300

INTRODUCTION = """<!-- Written by benchmarks/gpu_report.py; change that, not this. -->

Times by CUDA events, ours and the peers' in turns, medians; operands rotate through more memory than the cache has.
*Floor* is what the card itself allows: the bytes a call must move over the measured copy bandwidth, or its operations
over the measured rate of torch's largest products of that kind of number, whichever takes longer. *Share* is floor /
ours.
"""


def page(folder: Path) -> tuple[str, str]:
    """(name of the card, the page)."""
    machine = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    card = machine.get("card", "dry run")
    parts = [f"# {card}\n" if "card" in machine else "# Dry run, without a GPU: nothing was measured\n", INTRODUCTION]
    command = "benchmarks/gpu_first_run.sh" + (" --dry-run" if machine["dry_run"] else "")
    about = [
        f"- {key.replace('_', ' ')}: {value}" for key, value in machine.items() if key not in ("backends", "dry_run")
    ]
    parts += [f"`{command}`, commit {machine['commit']}:\n", "\n".join(about) + "\n", "## Steps\n", _steps(folder)]
    if (folder / "tests.xml").is_file():
        parts.append(_tests(folder / "tests.xml"))
    if (folder / "measured.json").is_file():
        parts += _measured(json.loads((folder / "measured.json").read_text(encoding="utf-8")))
    parts += _said(folder)
    return card, "\n".join(parts).rstrip() + "\n"


def _steps(folder: Path) -> str:
    rows: list[list[object]] = []
    for name, status, seconds in _ends(folder):
        said = {"0": "passed", "124": "**out of time**", "127": "not run: a tool is missing"}.get(
            status, f"**failed ({status})**"
        )
        rows.append([name, said, f"{seconds} s"])
    return table(["step", "", "took"], rows)


def _ends(folder: Path) -> list[list[str]]:
    """[step, exit status, seconds] of each."""
    return [line.split("\t") for line in (folder / "steps.tsv").read_text(encoding="utf-8").splitlines()]


def _said(folder: Path) -> list[str]:
    """The ends of the logs of steps that failed: whoever reads the page does not have the card."""
    parts = []
    for name, status, _ in _ends(folder):
        log = folder / f"{name}.log"
        if status not in ("0", "127") and log.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SAID_LINES:]
            parts.append(f"### The end of what {name} said\n\n````text\n" + "\n".join(lines) + "\n````\n")
    return ["## What failed\n", *parts] if parts else []


def _tests(path: Path) -> str:
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    total, failed, skipped = (
        sum(int(suite.get(key, 0)) for suite in suites for key in keys)
        for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    lines = [f"{total} tests, {failed} failed, {skipped} skipped.\n"]
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        for failure in (*case.iter("failure"), *case.iter("error")):
            said = " ".join(failure.get("message", "").replace("`", "'").split())[:SAID_CHARACTERS]
            lines.append(f"- failed: `{case.get('classname')}::{case.get('name')}`" + (f": `{said}`" if said else ""))
    return "\n".join(lines) + "\n"


def _measured(record: dict[str, Any]) -> list[str]:
    rates = ", ".join(f"{name} {rate / 1e12:.0f} T/s" for name, rate in record["operations_per_second"].items())
    parts = ["## Times\n", f"Copying moves {record['bytes_per_second'] / 1e12:.2f} TB/s; products: {rates}.\n"]
    for op in dict.fromkeys(case["op"] for case in record["cases"]):
        cases = [case for case in record["cases"] if case["op"] == op]
        peers = list(dict.fromkeys(name for case in cases for name in case["seconds"] if name != "gradsift"))
        floors = any(case["floor"] for case in cases)
        head = ["case", "gradsift", *(["floor", "share"] if floors else []), *peers, "each"]
        rows: list[list[object]] = []
        for case in cases:
            ours = case["seconds"]["gradsift"]
            floor = [_time(case["floor"]), f"{case['floor'] / ours:.2f}"] if floors else []
            others = [
                f"{_time(case['seconds'][name])} ({case['seconds'][name] / ours:.2f} ×)"
                if name in case["seconds"]
                else ""
                for name in peers
            ]
            count, what = case["per"]
            rows.append([case["case"], _time(ours), *floor, *others, f"{_time(ours / count)} a {what}"])
        parts += [f"### {op}\n", table(head, rows)]
    for op, error in record["errors"].items():
        parts.append(f"**{op} could not be measured**: `{error}`\n")
    return parts


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.2g} ns" if seconds else "none"


def main(folder: Path, results: Path) -> Path:
    card, text = page(folder)
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-").removeprefix("nvidia-")
    path = results / f"gpu-{slug}.md"
    results.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    print(f"wrote {main(Path(sys.argv[1]), Path(sys.argv[2]))}")
