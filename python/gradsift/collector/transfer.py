"""Between CPU memory and the device of a model, without waiting."""

from __future__ import annotations

import numpy as np
import torch

from gradsift.sketches import Sketches


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on `device`; from CPU memory to a GPU by way of pinned memory, for which nobody waits."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class PendingSketches:
    """The sketches of a batch whose kernels may still run; `result` waits for them.

    Copies out of a GPU go to pinned memory on the stream that made them, so that whoever asks for them later finds them
    there, and the host can prepare and launch the next batch meanwhile.
    """

    def __init__(self, rows: torch.Tensor, norms: torch.Tensor, losses: torch.Tensor, tokens: np.ndarray) -> None:
        self._tokens = tokens
        self._done: torch.cuda.Event | None = None
        parts = (rows, norms, losses.detach().float())
        self._parts = [_copied_out(part) for part in parts]
        if any(part.device.type == "cuda" for part in parts):
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(rows.device if rows.is_cuda else losses.device))

    def result(self) -> Sketches:
        """The sketches, NumPy; a sample without labels has zeros everywhere."""
        if self._done is not None:
            self._done.synchronize()
        rows, norms, losses = (part.numpy() for part in self._parts)
        without = self._tokens == 0
        rows[without] = 0.0
        norms[without] = 0.0
        grad_norm, gamma_norm = np.sqrt(np.maximum(norms, 0.0)).T  # NaN stays NaN
        return Sketches(rows, grad_norm.copy(), gamma_norm.copy(), losses, self._tokens)


def _copied_out(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type == "cpu":
        return tensor
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
