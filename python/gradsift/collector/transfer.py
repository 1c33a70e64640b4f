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
    there, and the host can prepare and launch the next batch meanwhile. Of a model that lies on several GPUs losses may
    come from another one than rows: each is waited for.
    """

    def __init__(self, rows: torch.Tensor, norms: torch.Tensor, losses: torch.Tensor, tokens: np.ndarray) -> None:
        self._tokens = tokens
        parts = (rows, norms, losses.detach().float())
        self._parts = [_copied_out(part) for part in parts]
        devices = {part.device for part in parts if part.device.type == "cuda"}
        self._done = [torch.cuda.current_stream(device).record_event() for device in devices]

    def __len__(self) -> int:
        return len(self._tokens)

    def result(self) -> Sketches:
        """The sketches, NumPy; a sample without labels has zeros everywhere. Asked again: the same memory."""
        for event in self._done:
            event.synchronize()
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
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
