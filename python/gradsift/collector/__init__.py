"""Per-sample gradients of a model, sketched while its batched backward runs, and the optimizer's moments.

Needs torch; knows ``torch.nn`` and nothing of files but the optimizer state that `load_moments` reads.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from gradsift.errors import DependencyMissingError

    raise DependencyMissingError(
        'gradsift.collector: expected torch to be installed, got nothing; pip install "gradsift[torch]"'
    ) from error

from gradsift.collector.clock import Clock
from gradsift.collector.collector import GradientCollector
from gradsift.collector.memory import available_bytes, is_out_of_memory
from gradsift.collector.moments import OPTIMIZER_NAMES, Moments, load_moments
from gradsift.collector.transfer import PendingSketches

__all__ = [
    "OPTIMIZER_NAMES",
    "Clock",
    "GradientCollector",
    "Moments",
    "PendingSketches",
    "available_bytes",
    "is_out_of_memory",
    "load_moments",
]
