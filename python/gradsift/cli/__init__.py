"""The command line. Commands import what they need when they run, so that ``--help`` is instant."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from gradsift.cli.commands import app
from gradsift.errors import GradsiftError

__all__ = ["main"]

_INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; the exit status is 0, 1 for an error that was explained, 2 for a wrong call, 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        status = app.main(args=arguments, prog_name="gradsift", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        return _stopped()
    except Exception as error:
        return _explain(error, sys.argv[1:] if arguments is None else arguments)


def _stopped() -> int:
    print("\nstopped; everything that was finished is kept, and the same command goes on from there", file=sys.stderr)
    return _INTERRUPTED


def _explain(error: Exception, arguments: list[str]) -> int:
    import click

    if isinstance(error, click.exceptions.Abort):
        return _stopped()
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, GradsiftError) and "--traceback" not in arguments:
        print(f"gradsift: {error}", file=sys.stderr)
        return 1
    # Not one of ours: a bug, or the machine. Whoever reports it needs the whole trace.
    raise error
