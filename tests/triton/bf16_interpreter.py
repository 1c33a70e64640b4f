"""Teaches Triton's interpreter bfloat16: upstream keeps such values as uint16 and computes on the bits.

Import it after TRITON_INTERPRET=1 is set and before a kernel runs. Arithmetic is float32, rounded to nearest even where
the result is bfloat16 again; `dot` accumulates in float32, as a tensor core does. The values of float8 are not mended.
"""

from __future__ import annotations

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

Builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle


def to_bfloat16(x):
    """float32 to the uint16 bits of bfloat16, to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), ((bits >> 16) | 0x40).astype(np.uint16), rounded).reshape(np.shape(x))


def to_float32(bits):
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(bits))


def _is_bfloat16(value):
    return isinstance(value, Handle) and value.dtype.scalar == tl.bfloat16


def _widen(value):
    return Handle(to_float32(value.data), tl.float32) if _is_bfloat16(value) else value


def _widening(original):
    def call(self, *args, **kwargs):
        if not any(map(_is_bfloat16, args)):
            return original(self, *args, **kwargs)
        result = original(self, *map(_widen, args), **kwargs)
        if result.dtype.scalar == tl.float32:  # comparisons give int1 and stay
            return Handle(to_bfloat16(result.data), tl.bfloat16)
        return result

    return call


def _cast_impl(original):
    def call(self, value, dtype):
        source, target = value.dtype.scalar, dtype.scalar
        if source == tl.bfloat16 and target != tl.bfloat16:
            wide = _widen(value)
            return wide if target == tl.float32 else original(self, wide, dtype)
        if target == tl.bfloat16 and source != tl.bfloat16:
            return Handle(to_bfloat16(value.data.astype(np.float32)), tl.bfloat16)
        return original(self, value, dtype)

    return call


def _fp_to_fp(original, cast):
    nearest = (None, interpreter._ir.ROUNDING_MODE.RTNE)

    def call(self, value, dtype, rounding):
        if {value.dtype.scalar, dtype.scalar} <= {tl.bfloat16, tl.float16, tl.float32} and rounding in nearest:
            return cast(self, value, dtype)
        return original(self, value, dtype, rounding)

    return call


def _dot(original):
    return lambda self, a, b, *rest: original(self, _widen(a), _widen(b), *rest)


for _name in ("binary_op", "unary_op", "create_fma", "create_clampf", "create_fabs"):
    setattr(Builder, _name, _widening(getattr(Builder, _name)))
Builder.cast_impl = _cast_impl(Builder.cast_impl)
Builder.create_fp_to_fp = _fp_to_fp(Builder.create_fp_to_fp, Builder.cast_impl)
Builder.create_dot = _dot(Builder.create_dot)
