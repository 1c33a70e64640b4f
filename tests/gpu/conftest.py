"""What only a GPU can show: `pytest -m gpu tests/gpu`, or benchmarks/gpu_first_run.sh."""

import pytest


def pytest_collection_modifyitems(items):
    reason = why_not()
    for item in items:
        if "gpu" not in item.keywords:
            continue
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        # torch warns of its own debug mode for waiting, the compiler of TF32 left unused, bitsandbytes of its casts.
        item.add_marker(pytest.mark.filterwarnings("default"))


def why_not():
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "no CUDA device that torch can use"
