"""float32 rows to bfloat16: every upper half, ties, NaN, Inf and zeros, at every level, against integers in NumPy."""

import numpy as np
import pytest


def round_rows(native, rows, stride=None):
    out = np.full(rows.shape, 0xDEAD, np.uint16)
    largest = np.full(len(rows), 0xDEADDEAD, np.uint32)
    stride = rows.strides[0] // 4 if stride is None else stride
    native.round_rows(
        rows=rows.ctypes.data,
        n=rows.shape[0],
        cols=rows.shape[1],
        stride=stride,
        out=out.ctypes.data,
        largest=largest.ctypes.data,
    )
    return out, largest


def expected(bits):
    """Round to nearest even in 64-bit integers; NaN keeps its upper half and gets its quiet bit."""
    wide = bits.astype(np.int64)
    upper, lower = wide >> 16, wide & 0xFFFF
    up = (lower > 0x8000) | ((lower == 0x8000) & (upper & 1 == 1))
    nan = (wide & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, upper | 0x40, upper + up).astype(np.uint16)


@pytest.mark.parametrize("lower", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_upper_half_is_rounded_to_nearest_even(native, isa, lower):
    bits = ((np.arange(1 << 16, dtype=np.uint32) << 16) | np.uint32(lower)).reshape(64, 1024)
    out, largest = round_rows(native, bits.view(np.float32))
    np.testing.assert_array_equal(out, expected(bits))
    np.testing.assert_array_equal(largest, (bits & 0x7FFFFFFF).max(axis=1))


@pytest.mark.parametrize("cols", [0, 1, 7, 31, 32, 33, 257])
def test_any_width_and_row_stride_leaves_the_rest_of_the_row_alone(native, isa, rng, cols):
    padded = rng.integers(0, 2**32, (5, cols + 3), dtype=np.uint32)
    rows = padded[:, :cols]
    out, largest = round_rows(native, rows.view(np.float32), stride=cols + 3)
    np.testing.assert_array_equal(out, expected(rows))
    np.testing.assert_array_equal(largest, (rows & 0x7FFFFFFF).max(axis=1, initial=0))


def test_overlapping_rows_are_refused(native):
    with pytest.raises(ValueError, match="stride of at least 8, got 7"):
        round_rows(native, np.zeros((2, 8), np.float32), stride=7)
