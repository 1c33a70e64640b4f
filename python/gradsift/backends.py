"""What can run here, what "auto" takes, and why nothing else.

``GRADSIFT_BACKEND`` (one of `BACKENDS`) forces what "auto" takes; a backend named in a call stands.
``GRADSIFT_ISA`` forces the instruction set of the ``cpu`` backend.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType

from gradsift.errors import BackendUnavailableError

BACKENDS = ("triton", "cuda", "cpu", "reference")
DEVICES = ("cpu", "cuda")
# An op has one implementation for GPUs: Triton where tensor cores do the work, CUDA C++ where bytes do.
SERVED_BY = {
    "project_linear": ("triton", "cpu", "reference"),
    "project_rows": ("cuda", "cpu", "reference"),
    "quantise": ("cuda", "cpu", "reference"),
    "score_rows": ("cuda", "cpu", "reference"),
}
OPS = tuple(SERVED_BY)

_BUILD_HINT = "build it with `pip install .` from the source tree, which needs a C++20 compiler"


def available() -> tuple[str, ...]:
    """The backends that can run here, in the order of `BACKENDS`. Imports torch, where it is installed."""
    return tuple(backend for backend in BACKENDS if why_not(backend) is None)


def choose(op: str, backend: str = "auto", device: str = "cpu") -> str:
    """The backend that a call of `op` with this `backend` runs on.

    "auto" is ``GRADSIFT_BACKEND`` where that is set; else "cpu" for arrays in CPU memory, and for CUDA tensors the
    one GPU backend that `op` has. Nothing stands in for a backend that cannot run: another would be many times
    slower, or would copy tensors between devices, and has to be asked for.

    Parameters
    ----------
    op : one of `OPS`
    backend : "auto" or one of `BACKENDS`
    device : {"cpu", "cuda"}
        Where the arrays of the call lie.

    Raises
    ------
    ValueError
        Unknown op, backend or device, in the call or in ``GRADSIFT_BACKEND``; a backend that `op` has not, or that
        does not read this device's memory.
    BackendUnavailableError
        The backend cannot run here: no native extension, no Triton, no driver, ….
    """
    if op not in OPS:
        raise ValueError(f"op: expected one of {OPS}, got {op!r}")
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {DEVICES}, got {device!r}")
    if backend not in ("auto", *SERVED_BY[op]):
        raise ValueError(f"backend: expected one of {('auto', *SERVED_BY[op])}, got {backend!r}")
    name = "backend"
    if backend == "auto":
        forced = _forced()
        name = "backend" if forced is None else "GRADSIFT_BACKEND"
        backend = forced or next(b for b in SERVED_BY[op] if _native_to(b, device))
    if backend not in SERVED_BY[op]:
        raise ValueError(f"{name}: expected one of {SERVED_BY[op]}, which {op} has, got {backend!r}")
    if not _reads(backend, device):
        able = tuple(b for b in SERVED_BY[op] if _reads(b, device))
        raise ValueError(
            f"{name}: expected one of {able} for arrays on device {device!r}, got {backend!r}; move the arrays, or "
            + ("leave the choice to 'auto'" if name == "backend" else "unset it")
        )
    if backend != "reference" and (reason := why_not(backend)):
        hint = f"{_HINTS[backend]}, or pass backend='reference' for small inputs in CPU memory"
        raise BackendUnavailableError(
            f"{name}: expected {_NEEDS[backend]} for {op} on {device!r}, got {reason}; {hint}"
        )
    return backend


def explain(op: str) -> str:
    """What "auto" takes for `op` on each device and why, for a reader. Imports torch where `available` does.

    Raises ValueError for an unknown op.
    """
    if op not in OPS:
        raise ValueError(f"op: expected one of {OPS}, got {op!r}")
    lines = []
    for device in DEVICES:
        try:
            taken = choose(op, device=device)
            forced = f" (forced by GRADSIFT_BACKEND={taken})" if _forced() else ""
            lines.append(f"{op}: auto takes {taken}{forced} for arrays on {device}")
        except (BackendUnavailableError, ValueError) as error:
            lines.append(f"{op}: auto cannot run for arrays on {device}: {error}")
    lines += [f"  {backend}: {describe(backend)}" for backend in SERVED_BY[op]]
    return "\n".join(lines)


def describe(backend: str) -> str:
    """What a backend runs on here, or why it cannot and what to do about that, for a reader."""
    reason = why_not(backend)
    return f"not available, {reason}; {_HINTS[backend]}" if reason else _ABOUT[backend]()


def why_not(backend: str) -> str | None:
    """Why this backend cannot run here, or None where it can."""
    return _WHY_NOT[backend]()


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on tensors in CPU memory: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _reads(backend: str, device: str) -> bool:
    if backend == "triton" and interpreted():
        return True
    return _native_to(backend, device)


def _native_to(backend: str, device: str) -> bool:
    return (backend in ("triton", "cuda")) == (device == "cuda")


def _forced() -> str | None:
    name = os.environ.get("GRADSIFT_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise ValueError(f"GRADSIFT_BACKEND: expected one of {BACKENDS}, got {name!r}; unset it or name one")
    return name


def _native() -> ModuleType:
    return importlib.import_module("gradsift._native")


def _why_not_native() -> str | None:
    try:
        _native()
    except ImportError as error:
        return f"ImportError: {error}"
    return None


def _why_not_cuda() -> str | None:
    if reason := _why_not_native():
        return reason
    native = _native()
    if not native.cuda_built():
        return "a native extension built without CUDA kernels"
    reason = native.cuda_unavailable_reason()
    return reason or None


def _why_not_triton() -> str | None:
    for package in ("torch", "triton"):
        if importlib.util.find_spec(package) is None:
            return f"no package {package}"
    if interpreted():
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device that torch can use"


def _about_cpu() -> str:
    native = _native()
    built, usable = native.built_isas(), native.isas()
    try:
        active = native.isa()
    except ValueError as error:
        return f"cannot run: {error}; unset GRADSIFT_ISA or name one of these"
    forced = os.environ.get("GRADSIFT_ISA")
    if active == forced:
        why = "forced by GRADSIFT_ISA"
    elif active == usable[0]:
        why = "the best this CPU runs"
    else:
        why = "set by gradsift._native.set_isa"
    missing = [name for name in built if name not in usable]
    text = f"instruction set {active}, {why}; built: {', '.join(built)}"
    return text + (f"; this CPU lacks {', '.join(missing)}" if missing else "")


def _about_triton() -> str:
    import triton

    where = "in its interpreter, on CPU memory (TRITON_INTERPRET=1)" if interpreted() else "on CUDA tensors"
    return f"Triton {triton.__version__}, {where}"


def _about_cuda() -> str:
    return "compiled kernels for CUDA tensors"


def _about_reference() -> str:
    return "NumPy, the definition; slow, taken only when asked for"


_WHY_NOT: dict[str, Callable[[], str | None]] = {
    "triton": _why_not_triton,
    "cuda": _why_not_cuda,
    "cpu": _why_not_native,
    "reference": lambda: None,
}
_NEEDS = {
    "triton": "Triton and a GPU",
    "cuda": "CUDA kernels and a driver",
    "cpu": "the native extension gradsift._native",
}
_HINTS = {
    "triton": 'pip install "gradsift[gpu]" on a machine with an NVIDIA GPU',
    "cuda": "the wheels have CUDA kernels; from source, build with GRADSIFT_CUDA=ON (docs/native.md)",
    "cpu": _BUILD_HINT,
}
_ABOUT = {"triton": _about_triton, "cuda": _about_cuda, "cpu": _about_cpu, "reference": _about_reference}
