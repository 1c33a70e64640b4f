"""`project_rows` by the CUDA kernels of csrc/project_rows, on the current stream of the arrays' device."""

from __future__ import annotations

import numpy as np

from gradsift import _native
from gradsift.naming import parameter_id
from gradsift.ops import _cuda_args
from gradsift.ops._arrays import Array
from gradsift.ops._cuda_args import Memory
from gradsift.specs import GAMMA_KINDS, PROJECTION_KINDS, Gamma, ProjectionSpec


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
    view = Memory.rows(grads)
    sketches = Memory.of(out)
    squares = Memory.of(norms) if norms is not None else None
    samples = sketches.shape[0]
    ids = offsets = None
    rows, between, within = shape[0], view.strides[0], shape[1]
    if row_ids is not None and cu_seqlens is not None:
        ids, offsets = _cuda_args.upload(row_ids, grads), _cuda_args.upload(cu_seqlens, grads)
        rows, between, within = int(np.diff(cu_seqlens).max(initial=0)), 0, view.strides[0]
    held = [Memory.contiguous(moment) for moment in moments or ()]  # may be copies, which have to last until the launch
    first, second = ((m.address, m.dtype) for m in held) if held else ((0, 0), (0, 0))
    n_bytes = _native.cuda_project_rows_scratch(samples=samples, rows=rows, cols=shape[1], proj_dim=spec.proj_dim)
    scratch = _cuda_args.scratch(grads, n_bytes) if n_bytes else None
    _native.cuda_project_rows(
        place=_cuda_args.place(grads),
        grads=(view.address, view.dtype, between, within),
        row_ids=0 if ids is None else ids.address,
        cu_seqlens=0 if offsets is None else offsets.address,
        samples=samples,
        longest=rows,
        d_out=shape[0],
        d_in=shape[1],
        projection=(PROJECTION_KINDS.index(spec.kind), spec.proj_dim, spec.seed, spec.nonzeros),
        param_id=parameter_id(param),
        gamma=(
            GAMMA_KINDS.index(gamma.kind),
            gamma.beta1 or 0.0,
            gamma.beta2 or 0.0,
            gamma.eps or 0.0,
            gamma.step or 0,
        ),
        first_moment=first,
        second_moment=second,
        output=(
            sketches.address,
            sketches.strides[0],
            squares.address if squares is not None else 0,
            squares.strides[0] if squares is not None else 0,
            accumulate,
        ),
        scratch=(scratch.address if scratch is not None else 0, n_bytes),
    )
