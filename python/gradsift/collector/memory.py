"""What a batch needs beyond the model, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from gradsift.errors import CollectError, DeviceMemoryError

# A label token's logits: as the model gives them, in float32, their softmax, and the gradients of these.
LOGIT_BYTES = 16


class SavedBytes:
    """Counts what autograd keeps from forward to backward: each storage once, the model's own not at all.

    Attributes
    ----------
    peak : int
        Bytes at the most. With activation checkpointing, what a recomputed segment keeps is counted while it does.
    """

    def __init__(self, model: nn.Module) -> None:
        self.peak = 0
        self._now = 0
        tensors = (*model.parameters(), *model.buffers())
        self._own = {t.untyped_storage().data_ptr() for t in tensors}
        self._held: dict[int, int] = {}

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts what is saved in its block."""
        with torch.autograd.graph.saved_tensors_hooks(lambda t: _Held(self, t), lambda held: held.tensor):
            yield

    def add(self, pointer: int, n_bytes: int) -> None:
        if pointer in self._own:
            return
        self._held[pointer] = self._held.get(pointer, 0) + 1
        if self._held[pointer] == 1:
            self._now += n_bytes
            self.peak = max(self.peak, self._now)

    def drop(self, pointer: int, n_bytes: int) -> None:
        if pointer in self._own:
            return
        self._held[pointer] -= 1
        if not self._held[pointer]:
            del self._held[pointer]
            self._now -= n_bytes


class _Held:
    """A saved tensor, counted as long as the graph keeps it."""

    def __init__(self, counter: SavedBytes, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        storage = tensor.untyped_storage()
        self._counter, self._what = counter, (storage.data_ptr(), storage.nbytes())
        counter.add(*self._what)

    def __del__(self) -> None:
        self._counter.drop(*self._what)


def available_bytes(device: torch.device) -> int:
    """Free memory where the model computes: of the GPU, or of the machine and the container that this process is in.

    A limit of a control group below the one mounted (a batch system's, without a container) is not seen.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [value for value in (_machine_bytes(), group_bytes()) if value is not None]
    if not limits:
        raise CollectError(
            "memory: expected /proc/meminfo or a control group that says how much there is, got neither; set "
            "collect.memory_limit_gib, or collect.max_tokens to a number"
        )
    return min(limits)


def _machine_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None


# A control group's limit, use, and the name of what is given up when memory is needed: version 2, then version 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def group_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group mounted at `root` leaves to this process; None without a limit."""
    for limit, used, stat, cached in _GROUP_FILES:
        try:
            most = (root / limit).read_text(encoding="ascii").strip()
            now = int((root / used).read_text(encoding="ascii"))
            counts = dict(line.split() for line in (root / stat).read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):
            continue
        if most != "max":
            return max(0, int(most) - now + int(counts.get(cached, 0)))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` is what Python, torch, its CPU allocator or our kernels raise when memory is not to be had."""
    known = (MemoryError, DeviceMemoryError, getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError))
    if isinstance(error, known):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
