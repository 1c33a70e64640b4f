"""How fast this machine reads memory: the best of a small C loop and of NumPy's and torch's sums, on any threads."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

SOURCE = Path(__file__).with_name("read_bandwidth.c")
Call = Callable[[], object]


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """float32 zeros at an address that 64 divides, the size rounded up to 4 KiB and written once."""
    count = int(np.prod(shape))
    room = np.zeros(4 * count + 8192, np.uint8)
    room.fill(0)
    start = -room.ctypes.data % 64
    return room[start : start + 4 * count].view(np.float32).reshape(shape)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The C loop, built for this processor; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = tempfile.mkdtemp()
    try:
        target = Path(folder) / "read_bandwidth.so"
        flags = ["-O3", "-march=native", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(SOURCE), "-o", str(target)], check=True, capture_output=True)
        library = ctypes.CDLL(str(target))
    finally:
        shutil.rmtree(folder)
    library.read_all.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
    library.read_all.restype = ctypes.c_uint64
    return library


def readers(data: np.ndarray, threads: int) -> dict[str, Call]:
    """Ways to read `data`, a float32 array from `aligned`, once; each call splits it among `threads`."""
    flat = data.reshape(-1)
    found: dict[str, Call] = {}
    if (library := _library()) is not None:
        for streams in (1, 2, 4):
            # Whole steps only: at most 512 · streams · threads bytes are left out, of megabytes.
            each = flat.nbytes // threads // (512 * streams) * (512 * streams)
            starts = [flat.ctypes.data + i * each for i in range(threads)]
            one = functools.partial(_read, library, each, streams)
            found[f"C loop, {streams} streams"] = _on_threads(one, starts)
    parts = [part.view(np.int64) for part in np.split(flat[: flat.size // (2 * threads) * 2 * threads], threads)]
    found["numpy int64 max"] = _on_threads(np.max, parts)
    found["numpy fp32 dot"] = _on_threads(_dot, [part.view(np.float32) for part in parts])
    tensors = torch.from_numpy(flat[: flat.size // 2 * 2].view(np.int64))
    found["torch int64 sum"] = tensors.sum
    return found


def _dot(x: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # any bytes are read as numbers
        return float(np.dot(x, x))


def _read(library: ctypes.CDLL, size: int, streams: int, start: int) -> int:
    return int(library.read_all(start, size, streams))


def _on_threads(call: Callable[..., object], parts: list) -> Call:
    """`call` on each part, in as many threads; NumPy and ctypes release the interpreter's lock."""
    if len(parts) == 1:
        return functools.partial(call, parts[0])
    pool = ThreadPoolExecutor(len(parts))
    return lambda: list(pool.map(call, parts))
