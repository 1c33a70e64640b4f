"""`project_linear` on CUDA tensors (triton_kernel.py); under TRITON_INTERPRET=1 on CPU memory, for tests."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from gradsift.naming import parameter_id
from gradsift.ops._arrays import Array, dtype_name, is_tensor
from gradsift.ops.project_linear.triton_config import configuration, groups, slab_floats, slice_count
from gradsift.ops.project_linear.triton_kernel import add_slabs, sketch_tiles
from gradsift.specs import GAMMA_KINDS, Gamma, ProjectionSpec

# Slabs of one launch; a larger batch takes several.
WORKSPACE_BYTES = 1 << 28
_VECTOR_BYTES = 16
# Within a tile the kernel reckons in 32 bits: 64 rows of fewer elements than this.
_LONGEST_ROW = 1 << 24


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
    if spec.kind != "xor":
        raise ValueError(
            f'spec.kind: expected "xor" on backend "triton", got {spec.kind!r}; a dense matrix costs '
            'proj_dim times as much: take backend "cpu" on tensors in CPU memory'
        )
    a, g = _rows(activations), _rows(output_grads)
    sketches, squares = _tensor(out), None if norms is None else _tensor(norms)
    d_out, d_in, batch = int(g.shape[-1]), int(a.shape[-1]), int(sketches.shape[0])
    if batch == 0:
        return
    if d_out == 0 or d_in == 0:
        for output in (sketches, squares):
            if output is not None and not accumulate:
                output.zero_()
        return
    for name, columns in (("activations", d_in), ("output_grads", d_out)):
        if columns >= _LONGEST_ROW:
            raise ValueError(f'{name}: expected fewer than 2**24 columns on backend "triton", got {columns}')
    packed = cu_seqlens is not None
    if packed:
        offsets = torch.from_numpy(np.ascontiguousarray(cu_seqlens, dtype=np.int64))
        if a.is_cuda:  # out of memory that is not pinned the driver may wait for the stream
            offsets = offsets.pin_memory().to(a.device, non_blocking=True)
    else:
        offsets = a
    m, v = (_tensor(moment).contiguous() for moment in moments) if moments else (a, a)
    config = configuration(d_out, d_in, dtype_name(a))
    slices, each = slice_count(d_out, d_in, spec.proj_dim, config)
    slab = slices * slab_floats(spec.proj_dim, config)
    together = max(1, min(batch, WORKSPACE_BYTES // (4 * slab)))
    slabs = torch.empty(together * slab, dtype=torch.float32, device=a.device)
    norm_slices = torch.empty(
        (together, slices, 2) if norms is not None else (1,), dtype=torch.float64, device=a.device
    )
    vec_a, vec_g = _vector(a, d_in), _vector(g, d_out)
    a_sample, g_sample = (0, 0) if packed else (a.stride(0), g.stride(0))
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():
        for first in range(0, batch, together):
            count = min(together, batch - first)
            sketch_tiles[(count, slices)](
                a if packed else a[first:],
                g if packed else g[first:],
                m,
                v,
                offsets[first:] if packed else offsets,
                slabs,
                norm_slices,
                0 if packed else int(a.shape[1]),
                d_out // vec_g,
                d_in // vec_a,
                a_sample // vec_a,
                a.stride(-2) // vec_a,
                g_sample // vec_g,
                g.stride(-2) // vec_g,
                *_words(parameter_id(param)),
                *_words(spec.seed),
                *_terms(gamma),
                -(-d_out // config.block_out) * -(-d_in // config.block_in),
                each,
                PROJ_DIM=spec.proj_dim,
                NONZEROS=spec.nonzeros,
                GAMMA=GAMMA_KINDS.index(gamma.kind),
                NORMS=norms is not None,
                PACKED=packed,
                VEC_A=vec_a,
                VEC_G=vec_g,
                **config.constants(),
                **config.options(),
            )
            add_slabs[(count, spec.proj_dim // 256)](
                slabs,
                norm_slices,
                sketches[first:],
                sketches if squares is None else squares[first:],
                slices * groups(spec.proj_dim, config),
                slices,
                sketches.stride(0),
                0 if squares is None else squares.stride(0),
                1 / math.sqrt(spec.nonzeros),
                PROJ_DIM=spec.proj_dim,
                ACCUMULATE=accumulate,
                NORMS=norms is not None,
                BLOCK=256,
                DEPTH=16,
                num_warps=4,
            )


def _tensor(array: Array) -> Tensor:
    """The same memory as a tensor, without its graph; bfloat16 of NumPy comes as ml_dtypes' type."""
    if is_tensor(array):
        tensor: Tensor = array.detach()
        return tensor
    if dtype_name(array) == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _rows(array: Array) -> Tensor:
    """With unit column stride and none below zero: the same memory where that is how it lies, else a copy."""
    if not is_tensor(array) and (min(array.strides) < 0 or not array.flags.aligned or not array.flags.writeable):
        array = np.array(array)
    tensor = _tensor(array)
    fits = tensor.shape[-1] <= 1 or tensor.stride(-1) == 1
    return tensor if fits and tensor.stride(-2) < _LONGEST_ROW else tensor.contiguous()


def _vector(tensor: Tensor, columns: int) -> int:
    """The elements, a power of two up to 16 bytes of them, that divide `columns` and the strides of the rows."""
    size = _VECTOR_BYTES // tensor.element_size()
    return math.gcd(size, columns, *tensor.stride()[:-1])


def _words(number: int) -> tuple[int, int]:
    """The low and the high 32 bits as signed integers: one type for the kernel, whatever their values."""
    low, high = number & 0xFFFFFFFF, number >> 32
    return tuple(word - (word >> 31 << 32) for word in (low, high))  # type: ignore[return-value]


def _terms(gamma: Gamma) -> tuple[float, float, float, float, float, float]:
    """first_m, first_g, second_v, second_g, inner_eps, eps of csrc/common/gamma.h, in float64 up to the launch."""
    if not gamma.needs_moments:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    beta1, beta2, eps, step = gamma.beta1 or 0.0, gamma.beta2 or 0.0, gamma.eps or 0.0, gamma.step or 0
    less, adam = gamma.kind == "less", gamma.kind == "adam"
    first = 1.0 if less else 1.0 - beta1 ** (step + 1)
    second = 1.0 if less else 1.0 - beta2 ** (step + adam)
    return (
        beta1 / first,
        (1.0 - beta1) / first,
        (beta2 if adam or less else 1.0) / second,
        (1.0 - beta2) / second,
        eps if less else 0.0,
        0.0 if less else eps,
    )
