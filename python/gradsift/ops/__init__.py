"""Public ops on arrays: NumPy, or torch tensors on the CPU; torch is not imported here.

An op is one name in four places: ``csrc/<op>``, ``gradsift/ops/<op>``, ``tests/ops/test_<op>.py`` and
``benchmarks/bench_<op>.py``. Its ``reference.py`` is the definition; every other backend agrees with it.
"""

from __future__ import annotations

from gradsift.ops.project_linear import project_linear
from gradsift.ops.project_rows import project_rows
from gradsift.ops.quantise import dequantise_rows, quantise_rows
from gradsift.ops.score_rows import score_rows

__all__ = ["dequantise_rows", "project_linear", "project_rows", "quantise_rows", "score_rows"]
