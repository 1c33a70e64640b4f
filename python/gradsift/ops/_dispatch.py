"""From a backend's name to the function that runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

from gradsift import backends


def implementation(op: str, backend: str, name: str | None = None) -> Callable[..., None]:
    """The function `name` (by default `op`) of the module ``gradsift.ops.<op>.<backend>``.

    "auto" is what `gradsift.backends` chooses.
    """
    path = f"gradsift.ops.{op}.{backends.choose(op, backend)}"
    module = sys.modules.get(path) or importlib.import_module(path)
    function: Callable[..., None] = getattr(module, name or op)
    return function
