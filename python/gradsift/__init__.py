"""Choose the training data that teaches a language model one wanted skill (LESS, arXiv 2402.04333).

Importing this package touches neither torch nor CUDA; names below load what they need when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradsift import errors
from gradsift.sketches import Sketches, SketchSink
from gradsift.specs import Gamma, ProjectionSpec, StoreSpec

__version__ = "0.1.0"

_LAZY = {
    "Datastore": "gradsift.datastore",
    "GradientCollector": "gradsift.collector",
    "Moments": "gradsift.collector",
    "backends": "gradsift.backends",
    "canonical_name": "gradsift.naming",
    "explain": "gradsift.selection",
    "load_moments": "gradsift.collector",
    "ops": "gradsift.ops",
    "select": "gradsift.selection",
}

if TYPE_CHECKING:
    import gradsift.backends as backends
    import gradsift.ops as ops
    from gradsift.collector import GradientCollector, Moments, load_moments
    from gradsift.datastore import Datastore
    from gradsift.naming import canonical_name
    from gradsift.selection import explain, select

__all__ = [
    "Datastore",
    "Gamma",
    "GradientCollector",
    "Moments",
    "ProjectionSpec",
    "SketchSink",
    "Sketches",
    "StoreSpec",
    "__version__",
    "backends",
    "canonical_name",
    "errors",
    "explain",
    "load_moments",
    "ops",
    "select",
]


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module 'gradsift' has no attribute {name!r}")
    module = importlib.import_module(home)
    value = module if home.endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
