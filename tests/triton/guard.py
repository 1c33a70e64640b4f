"""Tensors that end where a page begins that nobody may touch: a read past the end is a fault instead of a pass."""

from __future__ import annotations

import ctypes
import math
import mmap

import torch

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(values: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of `values` with a forbidden page behind its last element, and one before its first page."""
    size, page = math.prod(values.shape) * values.element_size(), mmap.PAGESIZE
    room = -(-size // page) * page
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    start = _libc.mmap(None, room + 2 * page, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    assert start not in (None, ctypes.c_void_p(-1).value), ctypes.get_errno()
    for forbidden in (start, start + page + room):
        assert _libc.mprotect(forbidden, page, 0) == 0, ctypes.get_errno()
    memory = (ctypes.c_char * size).from_address(start + page + room - size)
    return torch.frombuffer(memory, dtype=values.dtype).view(values.shape).copy_(values)
