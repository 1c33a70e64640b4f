"""What the programs cases_*.py share: each calls CUDA kernels on NumPy arrays, through the stand-in driver that
GRADSIFT_CUDA_DRIVER names, compares with the reference and ends with "<n> cases, <m> failed"."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import mmap
import sys
from pathlib import Path

import numpy as np

from gradsift import _native
from gradsift.ops import _cuda_args

ROOT = Path(__file__).parents[2]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_kept = []

# All memory is that of device 0, and the stream is the default one.
_cuda_args.place = lambda _array: (0, 0)


def budgets():
    """(op, quantity) to the error that docs/numerics.md allows."""
    spec = importlib.util.spec_from_file_location("budgets", ROOT / "tests/ops/budgets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_budgets()


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy that ends where a page begins that cannot be touched, for the rest of the process."""
    array = np.ascontiguousarray(array)
    page = mmap.PAGESIZE
    used = max(1, -(-array.nbytes // page)) * page
    memory = mmap.mmap(-1, used + page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mprotect(base + used, page, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    _kept.append(memory)
    copy = np.frombuffer(memory, np.uint8, array.nbytes, used - array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class Cases:
    """Counts what was compared and prints what differs."""

    def __init__(self) -> None:
        if reason := _native.cuda_unavailable_reason():
            sys.exit(f"no stand-in driver: {reason}")
        self.count = self.failed = 0
        self._kept = hashlib.sha256()

    def check(self, name: str, ok: bool, detail: object = "") -> None:
        self.count += 1
        if not ok:
            self.failed += 1
            print(f"FAILED {name}: {detail}")

    def equal(self, name: str, got: np.ndarray, want: np.ndarray) -> None:
        """Bit for bit, NaN equal to NaN."""
        same = np.array_equal(got, want, equal_nan=np.issubdtype(got.dtype, np.floating))
        if same:
            self.check(name, True)
            return
        differs = np.argwhere(~((got == want) | ((got != got) & (want != want))))
        at = tuple(map(int, differs[0]))
        self.check(name, False, f"at {at}: expected {want[at]}, got {got[at]}; {len(differs)} differ")

    def close(self, name: str, got: np.ndarray, want: np.ndarray, budget: float) -> None:
        """The largest ‖got − want‖ / ‖want‖ of any row within `budget`."""
        error = np.linalg.norm(got.astype(np.float64) - want, axis=-1)
        size = np.linalg.norm(want.astype(np.float64), axis=-1)
        worst = float(np.max(error / np.where(size > 0, size, 1), initial=0))
        self.check(name, worst <= budget, f"expected an error of at most {budget:.2g}, got {worst:.3g}")

    def keep(self, *arrays: np.ndarray) -> None:
        """Results of floats, whose bits no order of warps may change."""
        for array in arrays:
            self._kept.update(np.ascontiguousarray(array).tobytes())

    def end(self) -> None:
        print(f"floats {self._kept.hexdigest()}")
        print(f"{self.count} cases, {self.failed} failed")
        sys.exit(1 if self.failed else 0)
