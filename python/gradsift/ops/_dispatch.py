"""From a backend's name to the function that runs."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from gradsift import backends


def implementation(op: str, backend: str, name: str | None = None) -> Callable[..., None]:
    """The function `name` (by default `op`) of the module ``gradsift.ops.<op>.<backend>``.

    "auto" is what `gradsift.backends` chooses.
    """
    module = importlib.import_module(f"gradsift.ops.{op}.{backends.choose(op, backend)}")
    function: Callable[..., None] = getattr(module, name or op)
    return function
