"""What `gpu_first_run.sh` asks of Python: the machine, and every op's times. Not to be run by hand."""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

OPS = ("project_linear", "project_rows", "score_rows", "quantise", "collector")


def machine(path: Path, mode: str) -> None:
    """Card, driver, versions and commit; what is missing for a run is an error that names it."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": _output("git", "rev-parse", "--short=12", "HEAD") or "not a checkout",
        "dry_run": mode == "--dry-run",
    }
    import torch

    found["torch"] = torch.__version__
    if mode != "--dry-run":
        if not torch.cuda.is_available():
            raise SystemExit(
                "machine: expected a CUDA device that torch can use, got none; try --dry-run, or see nvidia-smi and "
                "torch.version.cuda"
            )
        import triton

        about = torch.cuda.get_device_properties(0)
        found |= {
            "card": about.name,
            "memory_gib": round(about.total_memory / 2**30, 1),
            "multiprocessors": about.multi_processor_count,
            "capability": f"{about.major}.{about.minor}",
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda_of_torch": torch.version.cuda,
            "triton": triton.__version__,
            "nvcc": (_output("nvcc", "--version").splitlines() or ["not found"])[-1],
        }
    from gradsift import backends

    found["backends"] = {op: backends.explain(op) for op in backends.OPS}
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(json.dumps(found, indent=1))


def measure(path: Path, mode: str) -> None:
    """Every op's cases, written as each ends, so that a run cut off keeps what it has."""
    import torch

    from gpu_timing import ceilings
    from gpu_timing import measure as timed

    limits = ceilings()
    record: dict[str, Any] = {
        "bytes_per_second": limits.bytes,
        "operations_per_second": limits.operations,
        "cases": [],
        "errors": {},
    }
    for op in OPS:
        try:
            module = importlib.import_module(f"gpu_{op}")
            for case in module.cases(mode == "--quick"):
                seconds = timed(case)
                line = {
                    "op": case.op,
                    "case": case.name,
                    "bytes": case.bytes,
                    "operations": case.operations,
                    "floor": limits.floor(case),
                    "per": case.per,
                    "seconds": seconds,
                }
                record["cases"].append(line)
                path.write_text(json.dumps(record, indent=1), encoding="utf-8")
                times = ", ".join(f"{name} {s * 1e6:.1f}" for name, s in seconds.items())
                print(f"{case.op}: {case.name}: {times}; floor {line['floor'] * 1e6:.1f} us")
                del case
                torch.cuda.empty_cache()
        except Exception as error:  # the other ops are still worth measuring; the report has this one
            traceback.print_exc()
            record["errors"][op] = f"{type(error).__name__}: {error}"
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if record["errors"]:
        raise SystemExit(f"measure: {', '.join(record['errors'])} failed")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    step, target, mode = sys.argv[1:4]
    {"machine": machine, "measure": measure}[step](Path(target), mode)
