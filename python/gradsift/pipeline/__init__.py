"""The whole job, step by step: each function does what is missing and returns what it made or found."""

from __future__ import annotations

from typing import Any

from gradsift.pipeline.config import RunConfig
from gradsift.pipeline.config_file import describe_config, load_config, parse_config, with_selection
from gradsift.pipeline.progress import LineReporter, Reporter, SilentReporter, TerminalReporter
from gradsift.pipeline.run import Run

__all__ = [
    "LineReporter",
    "Reporter",
    "Run",
    "RunConfig",
    "SilentReporter",
    "TerminalReporter",
    "describe_config",
    "load_config",
    "parse_config",
    "run_all",
    "with_selection",
]


def run_all(config: RunConfig, reporter: Reporter | None = None) -> dict[str, Any]:
    """Warm-up, collecting, selection, training and evaluation; what is done already is not done again.

    Returns what ``results.json`` holds.
    """
    from gradsift.pipeline.models import require_hf

    require_hf()  # before the steps are imported, which need torch to be imported at all
    from gradsift.pipeline.evaluate import evaluate
    from gradsift.pipeline.finished import write_reports
    from gradsift.pipeline.results import summarise

    run = Run.open(config, reporter)
    with run.directory.locked():
        figures = evaluate(run)
        write_reports(run)
        return summarise(run, figures)
