"""Runs `gradsift` commands in processes that it forks, with torch imported already, and kills them when told to.

``python command_server.py LOG``; one JSON request a line, with the keys

* ``arguments``: of the command
* ``signal``, ``after``, ``when``: a signal to send, that many seconds after the start, or once a path that matches a
  pattern is there; null for never
* ``seam``: a place in the code, by name, at which the process ends itself as by ``kill -9``; null for none

answered by one line: ``{"status": number, "seconds": number}``. The status is minus the signal's number for a process
that a signal ended. What commands print goes to the file LOG.
"""

from __future__ import annotations

import glob
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any


def die(*args: Any, **kwargs: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(real: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        real(*args, **kwargs)
        die()

    return call


def install(seam: str) -> None:
    """Puts the end of the process where `seam` says."""
    import safetensors.torch
    import torch

    from gradsift.pipeline import rundir, training

    def at_record(number: int, before: bool) -> None:
        """At record `number` (from 1) of those that complete a checkpoint."""
        real, seen = training.write_json, []

        def write(path: Path, record: Any) -> None:
            seen.append(path.name)
            mine = path.name == training.CHECKPOINT_RECORD and seen.count(path.name) == number
            if mine and before:
                die()
            real(path, record)
            if mine:
                die()

        training.write_json = write

    def half_a_file(module: Any, name: str) -> None:
        """While a library writes a file: half of it is there."""
        real = getattr(module, name)

        def write(what: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            real(what, path, *args, **kwargs)
            os.truncate(path, os.path.getsize(path) // 2)
            die()

        setattr(module, name, write)

    if seam == "inside save_pretrained, the adapter half written":
        import peft.peft_model

        half_a_file(safetensors.torch, "save_file")
        half_a_file(peft.peft_model, "safe_save_file")
    elif seam == "the optimizer's state half written":
        half_a_file(torch, "save")
    elif seam == "before the first checkpoint's record":
        at_record(1, before=True)
    elif seam == "after the first checkpoint's record":
        at_record(1, before=False)
    elif seam == "before the last checkpoint's record":
        at_record(2, before=True)
    elif seam == "after the last checkpoint's record, before the step is done":
        at_record(2, before=False)
    elif seam == "before the step is noted as done":
        rundir.RunDirectory.finish = die
    elif seam == "after the step is noted as done":
        rundir.RunDirectory.finish = die_after(rundir.RunDirectory.finish)
    elif seam == "after the step is noted as begun":
        rundir.RunDirectory.begin = die_after(rundir.RunDirectory.begin)
    else:
        raise ValueError(f"seam: expected one that is known, got {seam!r}")


def child(request: dict[str, Any]) -> None:
    """Never returns."""
    status = 70
    try:
        if request["seam"]:
            install(request["seam"])
        from gradsift.cli import main

        status = main(request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(request: dict[str, Any]) -> dict[str, Any]:
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        child(request)
    handle = os.pidfd_open(pid)
    if request["after"] is not None or request["when"] is not None:
        while not select.select([handle], [], [], 0.001 if request["when"] else request["after"])[0]:
            if not request["when"] or glob.glob(request["when"]):
                os.kill(pid, request["signal"])
                break
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    return {"status": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - start}


def main() -> None:
    # As in a terminal: what a shell starts in the background ignores Ctrl-C, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(1)
    # Imported, and nothing run: a process that has threads must not fork.
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    from transformers import Trainer  # noqa: F401

    import gradsift.pipeline.collect
    import gradsift.pipeline.evaluate
    import gradsift.pipeline.models

    gradsift.pipeline.models.quiet_libraries()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
