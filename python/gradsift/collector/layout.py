"""Which sample each token of a batch belongs to, for tensors as modules see them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from gradsift.errors import CollectError


@dataclass(frozen=True)
class Tokens:
    """Rows of a tensor by sample: `values` (R, d), of which sample b owns ``offsets[b]:offsets[b + 1]``."""

    values: torch.Tensor
    offsets: np.ndarray


@dataclass(frozen=True)
class Layout:
    """Samples of a batch as leading dimensions of the tensors in a model.

    Attributes
    ----------
    lead : (B, T), (1, N) or (B,)
        What stands before the feature dimensions. Modules may also see it flattened: (B·T, …) or (N, …).
    offsets : (B + 1,) int64
        Sample b owns tokens ``offsets[b]:offsets[b + 1]`` of those kept.
    keep : (N,) int64 tensor, optional
        Flat positions of the tokens that are not padding; None if none is.
    packed : bool
        Whether samples lie one after the other in the second dimension.
    """

    lead: tuple[int, ...]
    offsets: np.ndarray
    keep: torch.Tensor | None = None
    packed: bool = False

    @classmethod
    def of_samples(cls, n_samples: int) -> Layout:
        """Samples along the first dimension, whatever follows it."""
        return cls((n_samples,), np.arange(n_samples + 1, dtype=np.int64))

    @property
    def n_samples(self) -> int:
        return len(self.offsets) - 1

    def tokens(self, tensor: torch.Tensor, *, where: str) -> Tokens:
        """`tensor` (…, d) as rows by sample; padding is left out where its position can be told."""
        lead, d = tuple(tensor.shape[:-1]), int(tensor.shape[-1])
        if self.packed:
            n = self.lead[1]
            flat = bool(lead) and lead[0] == n and not (lead[0] == 1 and len(lead) > 1 and lead[1] == n)
            inner = lead[1:] if flat else lead[2:]
            if (not flat and lead[:2] != self.lead) or (n > 1 and n in inner):
                raise self._unknown(lead, where)
            return Tokens(tensor.reshape(-1, d), self.offsets * math.prod(inner))
        if lead[:1] == self.lead[:1] and (len(self.lead) == 1 or len(lead) > 1):
            inner = lead[1:]
            if self.keep is not None and inner[:1] == self.lead[1:] and inner.count(inner[0]) == 1:
                return self._kept(tensor, inner[1:], d)
            step = math.prod(inner)
            return Tokens(tensor.reshape(-1, d), np.arange(self.n_samples + 1, dtype=np.int64) * step)
        if len(self.lead) == 2 and lead[:1] == (math.prod(self.lead),):
            if self.keep is not None:
                return self._kept(tensor, lead[1:], d)
            return Tokens(tensor.reshape(-1, d), self.offsets * math.prod(lead[1:]))
        raise self._unknown(lead, where)

    def _kept(self, tensor: torch.Tensor, inner: tuple[int, ...], d: int) -> Tokens:
        assert self.keep is not None
        width = math.prod(inner)
        rows = tensor.reshape(math.prod(self.lead), width * d).index_select(0, self.keep.to(tensor.device))
        return Tokens(rows.reshape(-1, d), self.offsets * width)

    def padding_of(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The rows of `tensor` (…, d) at padding; None if there is none or its place cannot be told."""
        if self.keep is None or tuple(tensor.shape[:-1]) not in (self.lead, (math.prod(self.lead),)):
            return None
        flat = tensor.reshape(math.prod(self.lead), -1)
        padding = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        padding[self.keep.to(flat.device)] = False
        return flat[padding]

    def sample_of(self, tensor: torch.Tensor, b: int, *, where: str) -> torch.Tensor:
        """The part of `tensor` that belongs to sample b, its dimensions kept; all of it if no dimension is samples'."""
        if tensor.ndim == 0 or self.n_samples == 1:
            return tensor
        if not self.packed:
            if tensor.shape[0] == self.lead[0]:
                return tensor[b : b + 1]
            if len(self.lead) == 2 and tensor.shape[0] == math.prod(self.lead):
                return tensor[b * self.lead[1] : (b + 1) * self.lead[1]]
            if tensor.shape[0] == 1:
                return tensor
            raise self._unknown(tuple(tensor.shape), where)
        n, span = self.lead[1], slice(int(self.offsets[b]), int(self.offsets[b + 1]))
        if tensor.ndim == 4 and tuple(tensor.shape[2:]) == (n, n):  # an attention mask
            return tensor[:, :, span, span]
        if tuple(tensor.shape[:2]) == (1, n):
            return tensor[:, span]
        if tensor.shape[0] == n:
            return tensor[span]
        if n in tensor.shape:
            raise self._unknown(tuple(tensor.shape), where)
        return tensor

    def _unknown(self, shape: tuple[int, ...], where: str) -> CollectError:
        want = f"(1, {self.lead[1]}, …) or ({self.lead[1]}, …)" if self.packed else f"({self.lead[0]}, …)"
        if not self.packed and len(self.lead) == 2:
            want = f"({self.lead[0]}, {self.lead[1]}, …), ({self.lead[0]}, …, …) or ({math.prod(self.lead)}, …)"
        return CollectError(
            f"{where}: expected a tensor with leading dimensions {want}, which name the sample of each token, got "
            f"{shape}; leave the module out with modules=, or collect with one sample a batch"
        )
