"""From checked arrays to what `gradsift._native`'s CUDA functions take: addresses, strides, a device and a stream."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.ops._arrays import Array, dtype_name, is_tensor

# In the order of the kernels' own codes.
CUDA_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Memory:
    """Where an array lies; `strides` in elements. Holds the array, so that its memory stays."""

    array: Array
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int

    @classmethod
    def of(cls, array: Array) -> Memory:
        """Without a copy. NumPy arrays of two-byte integers stand for bfloat16, as on the CPU."""
        shape = tuple(int(n) for n in array.shape)
        if is_tensor(array):
            strides = tuple(int(n) for n in array.stride())
            return cls(array, int(array.data_ptr()), shape, strides, _dtype_code(dtype_name(array)))
        strides = tuple(n // array.itemsize for n in array.strides)
        return cls(array, int(array.ctypes.data), shape, strides, _dtype_code(dtype_name(array)))

    @classmethod
    def rows(cls, array: Array) -> Memory:
        """With unit stride along the last axis: a copy on the device where the array has another."""
        memory = cls.of(array)
        if memory.shape[-1] <= 1 or memory.strides[-1] == 1:
            return memory
        return cls.contiguous(array)

    @classmethod
    def contiguous(cls, array: Array) -> Memory:
        return cls.of(array.contiguous() if is_tensor(array) else np.ascontiguousarray(array))


def _dtype_code(name: str) -> int:
    name = "bfloat16" if name in ("int16", "uint16") else name
    return CUDA_DTYPES.index(name) if name in CUDA_DTYPES else -1


def place(array: Array) -> tuple[int, int]:
    """(device, stream) of a call on this array: its device's current stream, as torch has it."""
    torch: Any = sys.modules["torch"]
    index = int(array.device.index)
    return index, int(torch.cuda.current_stream(index).cuda_stream)


def scratch(like: Array, n_bytes: int) -> Memory:
    """Uninitialised bytes on the device of `like`, on its current stream: torch gives them to later work of that stream
    alone, so they may be let go of while a kernel still uses them."""
    if is_tensor(like):
        torch: Any = sys.modules["torch"]
        return Memory.of(torch.empty(n_bytes, dtype=torch.uint8, device=like.device))
    return Memory.of(np.empty(n_bytes, np.uint8))


def upload(values: np.ndarray, like: Array) -> Memory:
    """A host array on the device of `like`."""
    if is_tensor(like):
        torch: Any = sys.modules["torch"]
        return Memory.of(torch.tensor(values, device=like.device))
    return Memory.of(values)
