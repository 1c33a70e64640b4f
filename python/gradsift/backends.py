"""What can run here, what "auto" takes, and why nothing else.

``GRADSIFT_BACKEND`` (``cpu`` or ``reference``) forces what "auto" takes; a backend named in a call stands.
``GRADSIFT_ISA`` forces the instruction set of the ``cpu`` backend.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from gradsift.errors import BackendUnavailableError

BACKENDS = ("cpu", "reference")  # best first
OPS = ("project_linear", "project_rows", "quantise")

_BUILD_HINT = "build it with `pip install .` from the source tree, which needs a C++20 compiler"


def available() -> tuple[str, ...]:
    """The backends that can run here, best first."""
    return BACKENDS if _why_not_native() is None else ("reference",)


def choose(op: str, backend: str = "auto") -> str:
    """The backend that a call of `op` with this `backend` runs on.

    "auto" is ``GRADSIFT_BACKEND`` where that is set, else "cpu". Nothing stands in for a backend that cannot run:
    "reference" is many times slower and has to be asked for.

    Raises
    ------
    ValueError
        Unknown op or backend, in the call or in ``GRADSIFT_BACKEND``.
    BackendUnavailableError
        The native extension cannot be imported.
    """
    if op not in OPS:
        raise ValueError(f"op: expected one of {OPS}, got {op!r}")
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend: expected one of {('auto', *BACKENDS)}, got {backend!r}")
    if backend == "auto":
        backend = _forced() or "cpu"
    if backend == "cpu" and (reason := _why_not_native()):
        raise BackendUnavailableError(
            f"backend: expected the native extension gradsift._native for {op} on 'cpu', got {reason}; "
            f"{_BUILD_HINT}, or pass backend='reference' for small inputs"
        )
    return backend


def explain(op: str) -> str:
    """What "auto" takes for `op` and why, in a few lines for a reader. Raises ValueError for an unknown op."""
    if op not in OPS:
        raise ValueError(f"op: expected one of {OPS}, got {op!r}")
    reason = _why_not_native()
    try:
        taken = choose(op)
        forced = f" (forced by GRADSIFT_BACKEND={taken})" if _forced() else ""
        head = f"{op}: auto takes {taken}{forced}"
    except (BackendUnavailableError, ValueError) as error:
        head = f"{op}: auto cannot run: {error}"
    cpu = f"cpu: not available, {reason}; {_BUILD_HINT}" if reason else f"cpu: {_explain_isa()}"
    return "\n  ".join((head, cpu, "reference: NumPy, the definition; slow, taken only when asked for"))


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


def _explain_isa() -> str:
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
