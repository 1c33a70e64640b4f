"""`project_rows` by the compiled kernels (csrc/project_rows)."""

from __future__ import annotations

import numpy as np

from gradsift import _native
from gradsift.ops._arrays import Array
from gradsift.ops._native_args import Call, dtype_code, rows_view, stride_of
from gradsift.specs import Gamma, ProjectionSpec


def project_rows(
    grads: Array,
    spec: ProjectionSpec,
    param: str,
    shape: tuple[int, int],
    row_ids: np.ndarray | None,
    cu_seqlens: np.ndarray | None,
    gamma: Gamma,
    moments: tuple[Array, Array] | None,
    out: Array,
    norms: Array | None,
    accumulate: bool,
    threads: int | None,
) -> None:
    view = rows_view(grads)
    call = Call(spec, param, gamma, moments, out, norms, accumulate, threads)
    lists = [np.ascontiguousarray(x, dtype=np.int64) for x in (row_ids, cu_seqlens) if x is not None]
    ids, offsets = (x.ctypes.data for x in lists) if lists else (0, 0)
    # A row of `grads` is a whole sample, whose matrix has rows d_in apart; or, row-sparse, one listed row.
    between, within = (0, stride_of(view, 0)) if lists else (stride_of(view, 0), shape[1])
    _native.project_rows(
        grads=(view.ctypes.data, dtype_code(view), between, within),
        row_ids=ids,
        cu_seqlens=offsets,
        d_out=shape[0],
        d_in=shape[1],
        **call.arguments,
    )
