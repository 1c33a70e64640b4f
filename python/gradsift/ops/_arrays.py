"""Checks and conversions of the arguments that ops share; every check raises before anything is allocated.

Order of the checks of one argument: type, shape, dtype, device, value. torch is never imported here: whoever hands in
a tensor has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gradsift.specs import Gamma, ProjectionSpec

Array: TypeAlias = Any
"""A NumPy array or a torch tensor, in CPU memory or on a CUDA device."""

FLOAT_DTYPES = ("float32", "bfloat16")
CUDA_FLOAT_DTYPES = ("float32", "bfloat16", "float16")


def is_tensor(value: object) -> bool:
    if isinstance(value, np.ndarray):
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def type_name(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]}.{kind.__name__}"


def dtype_name(array: Array) -> str:
    if is_tensor(array):
        return str(array.dtype).removeprefix("torch.")
    return _numpy_name(array.dtype)


@lru_cache(maxsize=64)
def _numpy_name(dtype: np.dtype) -> str:
    # NumPy puts the name together anew each time: a third of what checking a small call cost.
    return str(dtype.name) if dtype.isnative else f"byte-swapped {dtype.name}"


def shape_of(array: Array) -> tuple[int, ...]:
    return tuple(int(n) for n in array.shape)


def check_type(name: str, value: object) -> None:
    if not (isinstance(value, np.ndarray) or is_tensor(value)):
        raise TypeError(f"{name}: expected a NumPy array or a torch tensor, got {type_name(value)}")


def check_dtype(name: str, array: Array, dtypes: Sequence[str]) -> None:
    if dtype_name(array) not in dtypes:
        raise TypeError(f"{name}: expected dtype {' or '.join(dtypes)}, got {dtype_name(array)}; convert it first")


def device_of(array: Array) -> str:
    """``"cpu"``, or a CUDA device with its number: ``"cuda:0"``."""
    return str(array.device) if is_tensor(array) else "cpu"


def device_type(name: str, array: Array) -> str:
    """``"cpu"`` or ``"cuda"``: what a backend is chosen by."""
    check_type(name, array)
    kind = device_of(array).split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"{name}: expected a tensor on the CPU or a CUDA device, got device {kind}; move it to one")
    return kind


def float_dtypes(array: Array) -> tuple[str, ...]:
    """What the projections read where `array` lies: CPUs have no arithmetic of float16 worth having."""
    return CUDA_FLOAT_DTYPES if device_of(array) != "cpu" else FLOAT_DTYPES


def check_device(name: str, array: Array, device: str | None = None) -> None:
    """`device`: where it has to lie, for operands after the first."""
    if device is not None and device_of(array) != device:
        raise ValueError(f"{name}: expected device {device} as the others have, got {device_of(array)}; move it there")
    device_type(name, array)
    if not is_tensor(array):
        return
    if str(array.layout) != "torch.strided":
        raise TypeError(f"{name}: expected a strided tensor, got layout {array.layout}; call .to_dense()")


def check_array(name: str, value: Array, *, shape: str, ndim: int, dtypes: Sequence[str] | None = None) -> None:
    """`shape` is how the message writes it, such as ``(B, T, d_in)``; `dtypes` are by default `float_dtypes`."""
    check_type(name, value)
    if len(value.shape) != ndim:
        raise ValueError(f"{name}: expected shape {shape}, got {shape_of(value)}")
    check_dtype(name, value, float_dtypes(value) if dtypes is None else dtypes)
    check_device(name, value)


def check_alike(name: str, value: Array, like_name: str, like: Array) -> None:
    """Same family (NumPy or torch) and dtype as the operand it belongs to."""
    if is_tensor(value) != is_tensor(like):
        raise TypeError(f"{name}: expected a {type_name(like)} like {like_name}, got {type_name(value)}")
    if dtype_name(value) != dtype_name(like):
        raise TypeError(f"{name}: expected dtype {dtype_name(like)} like {like_name}, got {dtype_name(value)}")
    check_device(name, value, device_of(like))


def check_names(spec: object, param: object, gamma: object) -> Gamma:
    """What is not an array; returns the Γ to apply."""
    if not isinstance(spec, ProjectionSpec):
        raise TypeError(f"spec: expected a ProjectionSpec, got {type_name(spec)}")
    if not isinstance(param, str):
        raise TypeError(f"param: expected a str, got {type_name(param)}")
    if not param:
        raise ValueError("param: expected a parameter's canonical name, got ''")
    if gamma is None:
        return Gamma.sgd()
    if not isinstance(gamma, Gamma):
        raise TypeError(f"gamma: expected a Gamma or None, got {type_name(gamma)}")
    return gamma


def check_threads(threads: object) -> None:
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads: expected an int or None, got {type_name(threads)}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")


def check_offsets(name: str, value: Array, total_name: str, total: int) -> np.ndarray:
    """Offsets (B+1) that start at 0, never fall and end at `total`, as NumPy int64.

    Those on a CUDA device are copied to the CPU, which waits for it.
    """
    offsets = _check_integers(name, value, "(B + 1,)")
    if offsets.size == 0:
        raise ValueError(f"{name}: expected at least one offset, got shape (0,)")
    if offsets[0] != 0:
        raise ValueError(f"{name}: expected the first offset to be 0, got {offsets[0]}")
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if falls.size:
        i = int(falls[0])
        raise ValueError(
            f"{name}: expected offsets that never fall, got {offsets[i]} then {offsets[i + 1]} at {i} and {i + 1}"
        )
    if offsets[-1] != total:
        raise ValueError(f"{name}: expected the last offset to be {total} ({total_name}), got {offsets[-1]}")
    return offsets


def check_row_ids(value: Array, rows: int, n_rows: int, offsets: np.ndarray) -> np.ndarray:
    """Row numbers (R,) within the parameter, none twice in one sample, as NumPy int64."""
    ids = _check_integers("row_ids", value, "(R,)")
    if ids.shape[0] != rows:
        raise ValueError(f"row_ids: expected shape ({rows},) to match grads, got {ids.shape}")
    if ids.size and (ids.min() < 0 or ids.max() >= n_rows):
        bad = ids.min() if ids.min() < 0 else ids.max()
        raise ValueError(f"row_ids: expected rows 0 … {n_rows - 1}, got {bad}")
    sample = np.repeat(np.arange(offsets.size - 1), np.diff(offsets))
    order = np.lexsort((ids, sample))
    twice = np.flatnonzero((np.diff(ids[order]) == 0) & (np.diff(sample[order]) == 0))
    if twice.size:
        at = order[twice[0]]
        raise ValueError(
            f"row_ids: expected each row once in a sample, got row {ids[at]} twice in "
            f"sample {sample[at]}; add up its gradients first"
        )
    return ids


def _check_integers(name: str, value: Array, shape: str) -> np.ndarray:
    check_type(name, value)
    if len(value.shape) != 1:
        raise ValueError(f"{name}: expected shape {shape}, got {shape_of(value)}")
    check_dtype(name, value, ("int64", "int32"))
    check_device(name, value)
    if is_tensor(value):
        value = value.cpu()
    return np.ascontiguousarray(numpy_view(value), dtype=np.int64)


def check_moments(
    moments: object, gamma: Gamma, param: str, shape: tuple[int, ...], device: str
) -> tuple[Array, Array] | None:
    """(exp_avg, exp_avg_sq) of `shape` where Γ reads them, nothing where it does not."""
    if not gamma.needs_moments:
        if moments is not None:
            raise ValueError(
                f"moments: expected None, since Gamma {gamma.kind!r} reads none, got moments; name the gamma you mean"
            )
        return None
    if moments is None:
        raise ValueError(
            f"moments: expected (exp_avg, exp_avg_sq) of {param!r}, since Gamma {gamma.kind!r} reads them, got None"
        )
    if not isinstance(moments, (tuple, list)) or len(moments) != 2:
        got = f"{len(moments)} items" if isinstance(moments, (tuple, list)) else type_name(moments)
        raise TypeError(f"moments: expected a pair (exp_avg, exp_avg_sq), got {got}")
    for name, value in zip(("moments[0] (exp_avg)", "moments[1] (exp_avg_sq)"), moments, strict=True):
        check_type(name, value)
        if shape_of(value) != shape:
            raise ValueError(f"{name}: expected shape {shape} of {param!r}, got {shape_of(value)}")
        check_dtype(name, value, FLOAT_DTYPES)
        check_device(name, value, device)
    check_alike("moments[1] (exp_avg_sq)", moments[1], "moments[0] (exp_avg)", moments[0])
    return moments[0], moments[1]


def check_outputs(
    out: Array | None,
    norms: Array | None,
    *,
    accumulate: bool,
    batch: int,
    proj_dim: int,
    inputs: Sequence[Array],
) -> None:
    if not isinstance(accumulate, bool):
        raise TypeError(f"accumulate: expected a bool, got {type_name(accumulate)}")
    if accumulate and out is None:
        raise ValueError("out: expected an array to add to, since accumulate is True, got None")
    if out is None and norms is None:
        return
    device = device_of(inputs[0])
    taken = [("an input", _span(array)) for array in inputs]
    for name, value, shape, dtype in (
        ("out", out, (batch, proj_dim), "float32"),
        ("norms", norms, (batch, 2), "float64"),
    ):
        if value is None:
            continue
        check_type(name, value)
        if shape_of(value) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {shape_of(value)}")
        check_dtype(name, value, (dtype,))
        check_device(name, value, device)
        if is_tensor(value) and value.requires_grad:
            raise ValueError(
                f"{name}: expected a tensor without gradient tracking, got requires_grad=True; pass it detached"
            )
        _check_writable(name, value)
        span = _span(value)
        for what, other in taken:
            if span[0] < other[1] and other[0] < span[1]:
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps {what}")
        taken.append((name, span))


def strides_of(array: Array) -> tuple[int, ...]:
    """In elements."""
    if is_tensor(array):
        return tuple(int(stride) for stride in array.stride())
    return tuple(stride // array.itemsize for stride in array.strides)


def _span(array: Array) -> tuple[int, int]:
    """The addresses from the first byte of `array` to the one after its last; none where it is empty."""
    size = array.element_size() if is_tensor(array) else array.itemsize
    address = int(array.data_ptr()) if is_tensor(array) else int(array.ctypes.data)
    if 0 in array.shape:
        return address, address
    reach = [int(stride) * size for stride in array.stride()] if is_tensor(array) else array.strides
    steps = [(n - 1) * stride for n, stride in zip(array.shape, reach, strict=True)]
    return address + sum(min(s, 0) for s in steps), address + sum(max(s, 0) for s in steps) + size


def _check_writable(name: str, array: Array) -> None:
    if not is_tensor(array):  # torch's tensors are aligned, and say nothing of read-only memory
        if not array.flags.writeable:
            raise ValueError(f"{name}: expected a writable array, got a read-only one")
        if not array.flags.aligned:
            raise ValueError(f"{name}: expected an aligned array, got one at an address that its dtype does not divide")
    rows, columns = array.shape
    row_stride, column_stride = strides_of(array)
    if (columns > 1 and rows and column_stride != 1) or (rows > 1 and row_stride < columns):
        raise ValueError(
            f"{name}: expected contiguous rows that do not overlap, "
            f"got strides {(row_stride, column_stride)} in elements"
        )


def numpy_view(array: Array) -> np.ndarray:
    """The same memory as a NumPy array; bfloat16 tensors as their int16 bits, since NumPy has no such type."""
    if not is_tensor(array):
        return np.asarray(array)
    torch = sys.modules["torch"]
    array = array.detach()
    return np.asarray((array.view(torch.int16) if array.dtype == torch.bfloat16 else array).numpy())


def to_float64(array: Array) -> np.ndarray:
    """A float64 NumPy copy, exact for every dtype that ops take."""
    if is_tensor(array):
        return np.asarray(array.detach().to(sys.modules["torch"].float64).numpy())
    return np.asarray(array).astype(np.float64)


def allocate_out(like: Array, batch: int, proj_dim: int) -> Array:
    """An uninitialised (B, P) float32 array of the family of `like`, on its device."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.empty((batch, proj_dim), dtype=torch.float32, device=like.device)
    return np.empty((batch, proj_dim), dtype=np.float32)


def empty(like: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """Uninitialised: a tensor on the device of `like` if that is on one, else a NumPy array."""
    if is_tensor(like) and device_of(like) != "cpu":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return np.empty(shape, dtype)


def store_row(out: Array, row: int, values: np.ndarray, accumulate: bool) -> None:
    """Writes `values` to one row of an output, or adds them to it."""
    view = numpy_view(out)
    view[row] = view[row] + values if accumulate else values
