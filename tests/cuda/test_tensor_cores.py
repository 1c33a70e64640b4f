"""The emulator's tensor cores against the tables of the PTX manual, typed in here a second time: kernels agree with the
reference on the emulator only as far as these hold.
"""

import ctypes
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytestmark = pytest.mark.driver

# PTX ISA 9.0, "Matrix Fragments for mma.m16n8k16 with floating point type", "… mma.m16n8k8" (.tf32) and
# "… mma.m16n8k32" (.s8), for a and b: row and column of element i of a lane, low to high in its registers; g is the
# lane's groupID, t its threadID_in_group.
FRAGMENTS = {
    "m16n8k16": (
        lambda g, t, i: (g if 0 <= i < 2 or 4 <= i < 6 else g + 8, t * 2 + (i & 1) + (0 if i < 4 else 8)),
        lambda g, t, i: (t * 2 + (i & 1) + (0 if i < 2 else 8), g),
    ),
    "m16n8k8": (
        lambda g, t, i: (g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4),
        lambda g, t, i: (t if i == 0 else t + 4, g),
    ),
    "m16n8k32": (
        lambda g, t, i: (g if 0 <= i < 4 or 8 <= i < 12 else g + 8, t * 4 + (i & 3) + (0 if i < 8 else 16)),
        lambda g, t, i: (t * 4 + (i & 3) + (0 if i < 4 else 16), g),
    ),
}


def accumulator(g, t, i):
    """Of c and d, for every shape m16n8."""
    return (g if i < 2 else g + 8, t * 2 + (i & 1))


PRODUCTS = [
    ("mma_bf16_16816", "m16n8k16", ml_dtypes.bfloat16),
    ("mma_f16_16816", "m16n8k16", np.float16),
    ("mma_tf32_1688", "m16n8k8", np.float32),
    ("mma_s8_16832", "m16n8k32", np.int8),
]


def fragments(matrix, place):
    """(32, …) of a matrix's elements, as lanes hold them."""
    held = matrix.size // 32
    return np.array([[matrix[place(lane >> 2, lane % 4, i)] for i in range(held)] for lane in range(32)], matrix.dtype)


@pytest.fixture
def library(link, tmp_path):
    return ctypes.CDLL(str(link([Path(__file__).with_name("tensor_cores.cpp")], "plain", tmp_path / "warp.so")))


@pytest.mark.parametrize(("name", "shape", "dtype"), PRODUCTS)
def test_products_are_those_of_the_matrices_that_the_manual_lays_over_the_lanes(library, name, shape, dtype):
    depth = int(shape.rpartition("k")[2])
    rng = np.random.default_rng(depth)
    # Integers that every type holds, and whose sums are exact; no two rows, columns or places alike.
    a = rng.integers(-100, 101, (16, depth)).astype(dtype)
    b = rng.integers(-100, 101, (depth, 8)).astype(dtype)
    c = np.arange(128).reshape(16, 8)
    sums = np.int32 if dtype is np.int8 else np.float32
    place_a, place_b = FRAGMENTS[shape]
    d = fragments(c.astype(sums), accumulator)
    operands = [np.ascontiguousarray(fragments(x, place)) for x, place in ((a, place_a), (b, place_b))]
    assert [x.nbytes for x in (*operands, d)] == [32 * 16, 32 * 8, 32 * 16]
    getattr(library, f"test_{name}")(*(x.ctypes.data_as(ctypes.c_void_p) for x in (*operands, d)))
    want = a.astype(np.int64) @ b.astype(np.int64) + c
    np.testing.assert_array_equal(d, fragments(want.astype(sums), accumulator))
