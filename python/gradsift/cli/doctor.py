"""What this machine can do, and why not more."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from functools import cache
from pathlib import Path

import gradsift


@cache
def findings() -> list[tuple[str, str]]:
    """(topic, what was found) in the order a person asks; nothing here raises for what is missing."""
    return [
        ("gradsift", f"{gradsift.__version__}, Python {platform.python_version()}, {platform.platform()}"),
        ("processor", f"{_processor()}, {len(os.sched_getaffinity(0))} cores may be used"),
        ("memory", _memory()),
        ("disk here", f"{shutil.disk_usage('.').free / 1e9:.1f} GB free"),
        *_backends(),
        *_torch(),
        *[(name, _extra(name, extra)) for name, extra in _PACKAGES],
    ]


_PACKAGES = [
    ("transformers", "hf"),
    ("peft", "hf"),
    ("datasets", "hf"),
    ("pyarrow", "hf"),
    ("gguf", "demo"),
    ("jinja2", "report"),
    ("matplotlib", "report"),
    ("bm25s", "baselines"),
    ("fsspec", "remote"),
]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


def _memory() -> str:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"


def _backends() -> list[tuple[str, str]]:
    from gradsift import backends

    by_choice: dict[tuple[str, ...], list[str]] = {}
    for op, served_by in backends.SERVED_BY.items():
        by_choice.setdefault(served_by, []).append(op)
    return [
        *[(f"backend {name}", backends.describe(name)) for name in backends.BACKENDS],
        *[(", ".join(ops), "run on " + ", ".join(served_by)) for served_by, ops in by_choice.items()],
    ]


def _torch() -> list[tuple[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return [("torch", 'not installed: ops and datastores work on NumPy; pip install "gradsift[hf]" for the rest')]
    import torch

    from gradsift.pipeline.models import has_native_bfloat16

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    return [
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("bfloat16", "native: the default" if has_native_bfloat16() else "emulated here, so float32 is the default"),
        ("GPU", gpu),
    ]


def _extra(name: str, extra: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f'not installed: pip install "gradsift[{extra}]"'
