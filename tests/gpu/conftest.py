"""What only a GPU can show: `pytest -m gpu tests/gpu`, or benchmarks/gpu_first_run.sh."""

import pytest


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if "gpu" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_not():
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "no CUDA device that torch can use"
