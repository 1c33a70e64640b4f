"""What a figure was measured on: processor, libraries, the code that a library really took, and our own commit."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

from gradsift import _native

# What decides which kernels run, of everything that /proc/cpuinfo lists.
_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_bf16",
    "avx512_vnni",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "bf16",
    "sve",
)
_PACKAGES = (
    "numpy", "torch", "scipy", "scikit-learn", "traker", "transformers", "peft", "pytest-benchmark", "threadpoolctl",
    "numkong", "faiss-cpu", "usearch",
)  # fmt: skip
# Settings by which a library is told to take another path than the one it takes for everybody.
_OVERRIDES = ("OPENBLAS_", "GOTO_", "MKL_", "ONEDNN_", "DNNL_", "ATEN_CPU_", "TORCH_MKLDNN_", "GRADSIFT_", "THP_MEM_")
ROOT = Path(__file__).resolve().parents[1]


def overrides() -> list[str]:
    """Variables of this process's environment under which no figure is recorded."""
    return sorted(name for name in os.environ if name.startswith(_OVERRIDES))


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = f"{size} for cores {(index / 'shared_cpu_list').read_text().strip()}"
    return found


def describe() -> dict[str, Any]:
    """The machine, as JSON."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    model = cpu.get("model name", platform.machine())
    if "cpu family" in cpu:
        model += f", family {cpu['cpu family']} model {cpu['model']} stepping {cpu.get('stepping', '?')}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "isa": [name for name in _FLAGS if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
    }


def slug() -> str:
    """The machine's name in file names, such as ``amd-epyc-f25m17-2cores``."""
    cpu = _cpuinfo()
    name = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", "", cpu.get("model name", platform.machine()))
    words = re.findall(r"[a-z0-9]+", name.lower())[:4]
    family = [f"f{cpu['cpu family']}m{cpu['model']}"] if "cpu family" in cpu else []
    return "-".join([*words, *family, f"{len(os.sched_getaffinity(0))}cores"])


def numpy_blas() -> str:
    """The library that NumPy's products run in, as it is loaded, such as ``OpenBLAS 0.3.31 (SkylakeX)``."""
    names = {"openblas": "OpenBLAS", "mkl": "MKL", "blis": "BLIS"}
    pools = [
        f"{names.get(pool['internal_api'], pool['internal_api'])} {pool['version']} ({pool.get('architecture', 'any')})"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]
    ]
    return pools[0] if pools else "a BLAS that threadpoolctl does not know"


def software() -> dict[str, Any]:
    """Versions, the BLAS each library was built with, and the instruction set of our kernels."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    config = torch.__config__.show()
    lines = [line.strip("- ").split("(Git")[0].split("for Intel")[0].strip() for line in config.splitlines()]
    return {
        "versions": versions,
        "numpy_blas": numpy_blas(),
        "torch_libraries": [line for line in lines if "Math Kernel Library" in line or "MKL-DNN" in line]
        or ["neither MKL nor oneDNN"],
        "our_isa": _native.isa(),
        "torch_threads": torch.get_num_threads(),
    }


def commit() -> dict[str, Any]:
    """Which tree was measured; `dirty` if a file that git knows had been changed."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git(
        "status", "--porcelain", "--untracked-files=no", "--", "csrc", "python", "benchmarks", ":!benchmarks/results"
    )
    return {
        "id": git("rev-parse", "--short=12", "HEAD"),
        "date": git("log", "-1", "--format=%cs"),
        "dirty": bool(changed),
    }


def path_taken(call: Callable[[], object]) -> str:
    """Which library's code a torch matrix product ran, read off the libraries' own logs.

    "MKL SGEMM", "oneDNN brg_matmul:avx512_core_bf16" or "neither MKL nor oneDNN".
    """
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    saved = os.dup(1)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        try:
            # MKL is asked only where torch has it: elsewhere its switch raises.
            if torch.backends.mkl.is_available():
                with torch.backends.mkl.verbose(1), torch.backends.mkldnn.verbose(1):
                    call()
            else:
                with torch.backends.mkldnn.verbose(1):
                    call()
        finally:
            libc.fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
        log.seek(0)
        text = log.read().decode(errors="replace")
    found = [f"MKL {name}" for name in re.findall(r"MKL_VERBOSE (\w+)\(", text)]
    found += [f"oneDNN {name}" for name in re.findall(r"exec,cpu,(?:matmul|inner_product),([^,]+)", text)]
    return " and ".join(dict.fromkeys(found)) or "neither MKL nor oneDNN"
