"""Converts a store and is killed once it has published so many shards: converting.py SOURCE OUT DTYPE SHARDS."""

from __future__ import annotations

import os
import signal
import sys

from gradsift.datastore import convert

left = int(sys.argv[4])


def killed(_: int) -> None:
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3], progress=killed)
