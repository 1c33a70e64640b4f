"""From checked arrays to what `gradsift._native` takes: addresses, strides and numbers. Copies only what it must."""

from __future__ import annotations

import os
import sys
from typing import Any, TypedDict

import numpy as np

from gradsift.naming import parameter_id
from gradsift.ops._arrays import Array, numpy_view
from gradsift.specs import GAMMA_KINDS, PROJECTION_KINDS, Gamma, ProjectionSpec


class SharedArguments(TypedDict):
    """What `_native.project_linear` and `_native.project_rows` both take."""

    samples: int
    projection: tuple[int, int, int, int]
    param_id: int
    gamma: tuple[int, float, float, float, int]
    first_moment: tuple[int, int]
    second_moment: tuple[int, int]
    output: tuple[int, int, int, int, bool]
    threads: int


def rows_view(array: Array) -> np.ndarray:
    """`array` (…, d) as NumPy with unit column stride: the same memory where that is how it lies, else a copy."""
    view = numpy_view(array)
    size = view.itemsize
    unit = view.shape[-1] <= 1 or view.strides[-1] == size
    # Strides go to the kernels in elements; a field of a structured array need not have whole ones.
    whole = all(stride % size == 0 for stride in view.strides)
    return view if unit and whole and view.flags.aligned else np.ascontiguousarray(view)


def dtype_code(view: np.ndarray) -> int:
    """0 for float32; 1 for bfloat16, which arrives as any type of two bytes."""
    return 0 if view.itemsize == 4 else 1


def stride_of(view: np.ndarray, axis: int) -> int:
    """In elements."""
    return view.strides[axis] // view.itemsize


def default_threads() -> int:
    """As many as torch uses where torch is loaded, else the CPUs this process may run on."""
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Call:
    """The arguments both ops share. Holds the arrays whose addresses it gives, so it must outlive the call."""

    def __init__(
        self,
        spec: ProjectionSpec,
        param: str,
        gamma: Gamma,
        moments: tuple[Array, Array] | None,
        out: Array,
        norms: Array | None,
        accumulate: bool,
        threads: int | None,
    ) -> None:
        self._moments = [np.ascontiguousarray(numpy_view(moment)) for moment in moments or ()]
        first, second = ((m.ctypes.data, dtype_code(m)) for m in self._moments) if moments else ((0, 0), (0, 0))
        sketches = numpy_view(out)
        norm_address, norm_stride = 0, 0
        if norms is not None:
            pairs = numpy_view(norms)
            norm_address, norm_stride = pairs.ctypes.data, stride_of(pairs, 0)
        self.arguments: SharedArguments = {
            "samples": int(sketches.shape[0]),
            "projection": (PROJECTION_KINDS.index(spec.kind), spec.proj_dim, spec.seed, spec.nonzeros),
            "param_id": parameter_id(param),
            "gamma": (
                GAMMA_KINDS.index(gamma.kind),
                gamma.beta1 or 0.0,
                gamma.beta2 or 0.0,
                gamma.eps or 0.0,
                gamma.step or 0,
            ),
            "first_moment": first,
            "second_moment": second,
            "output": (
                sketches.ctypes.data,
                stride_of(sketches, 0),
                norm_address,
                norm_stride,
                accumulate,
            ),
            "threads": default_threads() if threads is None else threads,
        }
