"""Opens every store in a folder under limits that a bomb would break: ``python open_attacks.py FOLDER``.

Prints a JSON line for each: what opening raised (and reading, if it opened), the memory it took at most beyond what was
there, and the files that were opened. A crash, a hang or an allocation beyond the limits ends the process early.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from gradsift import Datastore
from gradsift.errors import DatastoreError

SPARE_BYTES = 256 << 20
CPU_SECONDS = 20  # all of it takes five


def read_all(store: Datastore) -> None:
    store.ids()
    store.metadata()
    store.positions()
    if not store.gaps():
        store.rows()
    list(store.blocks())


def attack(path: str) -> dict[str, Any]:
    """What happens to who opens `path` and reads it; anything but a DatastoreError is let through."""
    found: dict[str, Any] = {"name": os.path.basename(path)}
    try:
        store = Datastore.open(path)
        found["open"] = None
    except DatastoreError as error:
        found["open"] = [type(error).__name__, str(error)]
    else:
        try:
            read_all(store)
            found["read"] = None
        except DatastoreError as error:
            found["read"] = [type(error).__name__, str(error)]
    try:
        store = Datastore.open(path, on_error="skip")
        for block in store.blocks(on_error="skip"):
            assert (block.rows == 1.0).all()
        found["report"] = str(store.verify())
        found["ok"] = store.verify().ok
        if found["ok"]:
            json.dumps(store.info())
    except DatastoreError as error:
        found["skip"] = [type(error).__name__, str(error)]
    return found


def main() -> None:
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event in ("open", "os.listdir") else None)
    attack(str(Path(__file__).parent / "nothing there"))  # what is imported late is imported now
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + SPARE_BYTES, size + SPARE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    tracemalloc.start()
    for path in sorted(Path(sys.argv[1]).iterdir()):
        opened.clear()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        found = attack(str(path))
        found["peak_bytes"] = tracemalloc.get_traced_memory()[1] - before
        found["opened"] = sorted(set(opened))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
