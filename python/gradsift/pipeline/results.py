"""The table at the end of a run: base, random and selected side by side, and what each selection is made of."""

from __future__ import annotations

import statistics
from typing import Any

from gradsift.files import write_text
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import write_json
from gradsift.pipeline.select import selection_targets
from gradsift.pipeline.train import make_up, selected_positions


def summarise(run: Run, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes ``results.json`` and ``results.md`` and returns what they hold."""
    groups: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, targets in figures.items():
        group = name.rsplit("-seed-", 1)[0]
        for target, values in targets.items():
            cell = groups.setdefault(target, {}).setdefault(group, {"loss": [], "exact_match": []})
            for key in cell:
                if key in values:
                    cell[key].append(values[key])
    selections = {}
    for name in selection_targets(run):
        positions = selected_positions(run, name)
        selections[name] = {"samples": len(positions), "make_up": make_up(run, positions)}
    record = {
        "targets": groups,
        "selections": selections,
        "pool": {"samples": len(run.pool), "make_up": make_up(run, list(range(len(run.pool))))},
    }
    write_json(run.directory.root / "results.json", record)
    write_text(run.directory.root / "results.md", markdown(record))
    return record


def table_rows(record: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """(target, trained on, runs, loss, exact match), base first, then random, then selections."""
    order = {"base": 0, "random": 1}
    rows = []
    for target, groups in record["targets"].items():
        for group in sorted(groups, key=lambda g: (order.get(g, 2), g)):
            cell = groups[group]
            label = {"base": "nothing (base model)", "random": "random"}.get(group, f"selection {group}")
            exact = _spread(cell["exact_match"], ".3f") if cell["exact_match"] else "–"
            rows.append((target, label, str(len(cell["loss"])), _spread(cell["loss"], ".4f"), exact))
    return rows


def _spread(values: list[float], form: str) -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def markdown(record: dict[str, Any]) -> str:
    lines = [
        "# Results",
        "",
        "Loss: mean nats over the answer tokens of the test set; exact match: share of greedy answers that are right. "
        "Mean ± standard deviation over training seeds.",
        "",
        "| target | trained on | trainings | loss | exact match |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {' | '.join(row)} |" for row in table_rows(record)]
    pool = record["pool"]
    for name, selection in record["selections"].items():
        lines += ["", f"## What selection {name} is made of ({selection['samples']} of {pool['samples']} samples)", ""]
        lines += ["| source | selected | in the pool | times its share |", "| --- | --- | --- | --- |"]
        for source, count in selection["make_up"].items():
            there = pool["make_up"][source]
            lift = count / selection["samples"] / (there / pool["samples"])
            lines.append(f"| {source} | {count} | {there} | {lift:.1f} |")
    return "\n".join(lines) + "\n"
