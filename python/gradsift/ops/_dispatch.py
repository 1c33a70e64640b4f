"""From a backend's name to the function that runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

from gradsift import backends


def implementation(op: str, backend: str, device: str, name: str | None = None) -> Callable[..., None]:
    """The function `name` (by default `op`) of the module ``gradsift.ops.<op>.<backend>``.

    `backend` and `device` ("cpu" or "cuda") are what `gradsift.backends.choose` takes.
    """
    return _function(f"gradsift.ops.{op}.{backends.choose(op, backend, device)}", name or op)


@cache
def _function(path: str, name: str) -> Callable[..., None]:
    # not out of sys.modules, where another thread may still be at work on the module
    function: Callable[..., None] = getattr(importlib.import_module(path), name)
    return function
