"""Which library multiplies float32 matrices on the CPU: the fastest that is as accurate as torch's default."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

# Relative to the default's own error on the same products. An absolute bound is not enough: oneDNN at 5.7e-7 beside
# MKL's 2.6e-7 looks like float32 and put SmolLM2-135M's sketches 9.5e-6 from float64 instead of 4.1e-6.
_MOST_WORSE = 1.1
# (rows, inner, columns): a layer, LoRA's A and B, and the logits' inner length; libraries choose a path by shape.
_SHAPES = ((256, 576, 1536), (256, 576, 16), (256, 128, 576), (64, 4096, 256))

_BY_BACKEND = "by backend"


@dataclass(frozen=True)
class Float32Matmul:
    """How float32 matrices are multiplied while collecting: torch's setting, and why."""

    setting: str
    why: str

    @contextmanager
    def set(self) -> Iterator[None]:
        """The setting, and the former one afterwards. It is the process's: other threads see it meanwhile."""
        before = _current()
        if before in (self.setting, _BY_BACKEND):
            yield
            return
        torch.set_float32_matmul_precision(self.setting)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def choose_float32_matmul(device: torch.device, choice: str = "auto") -> Float32Matmul:
    """What `choice` means here.

    "unchanged" is torch's setting of the moment. "auto" is "medium" (oneDNN instead of MKL) on a CPU where its products
    are measured to be as accurate as the default's, and only if torch is at its default; elsewhere, unchanged. Never on
    a GPU, where "medium" is TF32 or less.
    """
    now = _current()
    if choice == "unchanged":
        return Float32Matmul(now, "as torch was set")
    if choice != "auto":
        raise ValueError(f'float32_matmul: expected "auto" or "unchanged", got {choice!r}')
    if device.type != "cpu":
        return Float32Matmul(now, f"as torch was set: on {device.type} a faster one rounds its inputs")
    if now != "highest":
        return Float32Matmul(now, "as torch was set, which is not its default")
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return Float32Matmul(now, "this torch has no oneDNN")
    default, error = matmul_error("highest"), matmul_error("medium")
    if error > _MOST_WORSE * default:
        return Float32Matmul(now, f'"medium" is off by {error:.1e} on this CPU, the default by {default:.1e}')
    return Float32Matmul("medium", f"oneDNN, off by {error:.1e} on this CPU, the default by {default:.1e}")


def _current() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses to sum up what was set by its newer ``fp32_precision``
        return _BY_BACKEND


@functools.cache
def matmul_error(setting: str) -> float:
    """The largest relative error of float32 products under `setting`, against float64, on a few shapes."""
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    with Float32Matmul(setting, "").set(), torch.no_grad(), torch.autocast("cpu", enabled=False):
        for rows, inner, columns in _SHAPES:
            a = torch.randn(rows, inner, generator=generator, device="cpu", dtype=torch.float32)
            b = torch.randn(columns, inner, generator=generator, device="cpu", dtype=torch.float32)
            exact = a.double() @ b.double().T
            size = torch.linalg.vector_norm(exact)
            for got in (torch.nn.functional.linear(a, b), a @ b.T.contiguous()):
                worst = max(worst, float(torch.linalg.vector_norm(got.double() - exact) / size))
    return worst
