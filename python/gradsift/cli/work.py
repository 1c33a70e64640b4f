"""What commands begin with: a configuration, options, the run they work on, somebody who is told of progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gradsift.pipeline import Reporter, Run, RunConfig


def reporter() -> Reporter:
    """A live bar where a person watches, plain lines otherwise; both on standard error."""
    from rich.console import Console

    from gradsift.pipeline import LineReporter, TerminalReporter

    console = Console(stderr=True)
    if console.is_terminal:
        return TerminalReporter(console)
    return LineReporter(lambda line: print(line, file=sys.stderr, flush=True))


def read_config(path: Path, run_dir: Path | None) -> RunConfig:
    from gradsift.pipeline import load_config

    settings = load_config(path)
    return settings if run_dir is None else settings.model_copy(update={"run_dir": str(run_dir.absolute())})


def read_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs as TOML values; what is no TOML is text."""
    from gradsift.pipeline.config_file import toml_value

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--option: expected NAME=VALUE, got {pair!r}")
        found[name] = toml_value(value)
    return found


@contextmanager
def at_work(
    config: Path, run_dir: Path | None, *, shared: bool = False, select: dict[str, Any] | None = None
) -> Iterator[Run]:
    """The run of a configuration file, held for this process, or for all processes that ask for it `shared`.

    `select` replaces keys of its section [select].
    """
    from gradsift.pipeline import Run, with_selection
    from gradsift.pipeline.models import require_hf

    settings = read_config(config, run_dir)
    if select:
        settings = with_selection(settings, select)
    require_hf()
    job = Run.open(settings, reporter())
    with job.directory.shared(job.reporter.say) if shared else job.directory.locked():
        yield job
