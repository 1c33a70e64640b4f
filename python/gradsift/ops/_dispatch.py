"""From a backend's name to the function that runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable

BACKENDS = ("auto", "cpu", "reference")


def implementation(op: str, backend: str) -> Callable[..., None]:
    """The function `op` of the module ``gradsift.ops.<op>.<backend>``; "auto" is what `gradsift.backends` chooses."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}")
    if backend != "reference":
        from gradsift import backends

        backend = backends.choose(op, backend)
    function: Callable[..., None] = getattr(importlib.import_module(f"gradsift.ops.{op}.{backend}"), op)
    return function
