"""What a run ends with: tables of its results and of how far its selections can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


def show_diagnostics(directories: Sequence[Path]) -> None:
    """How far each selection can be trusted, on standard error."""
    from rich.console import Console

    from gradsift.cli.explain import diagnostics_table
    from gradsift.pipeline.rundir import read_json

    for directory in directories:
        Console(stderr=True).print(diagnostics_table(directory.name, read_json(directory / "selection.json")))


def show_results(record: dict[str, Any], directory: Path) -> None:
    """The table of a run, and where its report lies."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from gradsift.pipeline.results import table_rows

    console = Console()
    if record["targets"]:
        table = Table(title="Loss and exact match on the test sets (lower loss is better)")
        for title in ("target", "trained on", "trainings", "loss", "exact match"):
            table.add_column(title)
        for row in table_rows(record):
            table.add_row(*row)
        console.print(table)
    for name, selection in record["selections"].items():
        table = Table(title=f"Selection {name}: {selection['samples']} of {record['pool']['samples']} samples")
        for title in ("source", "selected", "in the pool"):
            table.add_column(title)
        for source, count in selection["make_up"].items():
            table.add_row(escape(source), str(count), str(record["pool"]["make_up"][source]))
        console.print(table)
    show_diagnostics([directory / "selection" / name for name in record["selections"]])
    for name in record["selections"]:
        page = directory / "selection" / name / "report.html"
        if page.is_file():
            click.echo(f"report: {page}")
    click.echo(f"results: {directory / 'results.md'}   everything: {directory / 'README.md'}")
