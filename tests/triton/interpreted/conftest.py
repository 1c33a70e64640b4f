"""These run in a process of their own, with TRITON_INTERPRET=1: ../test_interpreted.py starts it."""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).parent

if os.environ.get("TRITON_INTERPRET") == "1":
    sys.path.insert(0, str(HERE.parent))
    import bf16_interpreter  # noqa: F401

    _spec = importlib.util.spec_from_file_location("ops_conftest", HERE.parents[1] / "ops" / "conftest.py")
    _ops = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_ops)
    budget, relative_error, moments_like, rng = _ops.budget, _ops.relative_error, _ops.moments_like, _ops.rng
else:
    collect_ignore_glob = ["test_*.py"]
