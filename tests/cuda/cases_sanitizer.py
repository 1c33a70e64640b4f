"""Runs tests/gpu/test_sanitizer.py, but for Triton's kernels, on the stand-in driver: ``python cases_sanitizer.py``.

Tensors stay in CPU memory and are taken for those of device 0. GRADSIFT_MOCK_LOG has what was launched.
"""

import functools
import sys
from pathlib import Path

import emulated  # noqa: F401
import pytest
import torch

from gradsift.ops import _arrays


def on_host(make):
    @functools.wraps(make)
    def call(*arguments, device=None, **keywords):
        return make(*arguments, **keywords)

    return call


torch.cuda.is_available = lambda: True
for name in ("empty", "randn"):
    setattr(torch, name, on_host(getattr(torch, name)))
_arrays.device_of = lambda array: "cuda:0" if _arrays.is_tensor(array) else "cpu"

TESTS = Path(__file__).parents[1] / "gpu/test_sanitizer.py"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-m", "gpu", "-k", "not project_linear", str(TESTS)]))
