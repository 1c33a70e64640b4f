"""`project_linear` by the compiled kernels (csrc/project_linear)."""

from __future__ import annotations

import numpy as np

from gradsift import _native
from gradsift.ops._arrays import Array
from gradsift.ops._native_args import Call, dtype_code, rows_view, stride_of
from gradsift.specs import Gamma, ProjectionSpec


def project_linear(
    activations: Array,
    output_grads: Array,
    spec: ProjectionSpec,
    param: str,
    cu_seqlens: np.ndarray | None,
    gamma: Gamma,
    moments: tuple[Array, Array] | None,
    out: Array,
    norms: Array | None,
    accumulate: bool,
    threads: int | None,
) -> None:
    a, g = rows_view(activations), rows_view(output_grads)
    call = Call(spec, param, gamma, moments, out, norms, accumulate, threads)
    padded = cu_seqlens is None
    if cu_seqlens is None:
        offsets = np.arange(a.shape[0] + 1, dtype=np.int64) * a.shape[1]
    else:
        offsets = np.ascontiguousarray(cu_seqlens, dtype=np.int64)
    _native.project_linear(
        activations=(a.ctypes.data, dtype_code(a), stride_of(a, 0) if padded else 0, stride_of(a, -2)),
        output_grads=(g.ctypes.data, dtype_code(g), stride_of(g, 0) if padded else 0, stride_of(g, -2)),
        cu_seqlens=offsets.ctypes.data,
        padded=padded,
        d_out=int(g.shape[-1]),
        d_in=int(a.shape[-1]),
        **call.arguments,
    )
