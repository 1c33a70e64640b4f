"""One real optimizer step from a checkpoint on one sample, taken and taken back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from gradsift.collector.moments import Moments
from gradsift.collector.parameters import as_matrix_order, trained_parameters
from gradsift.data import EncodedSample
from gradsift.pipeline.evaluate import batch_losses, summed_losses

if TYPE_CHECKING:
    import torch

Gradients = list[np.ndarray]
"""One float32 array a trained parameter, in model order, shaped as the moments are."""


class OneStep:
    """A model at a checkpoint, of which one can ask a sample's gradient and where one step on it leads.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode, its parameters as the checkpoint has them.
    moments : Moments
        Of every trained parameter: the state that each step starts from.
    learning_rate : float
    weight_decay : float
        As torch's AdamW applies it, apart from the gradient.
    """

    def __init__(self, model: Any, moments: Moments, learning_rate: float, *, weight_decay: float = 0.0) -> None:
        import torch

        self._model = model
        self._trained = trained_parameters(model)
        self._moments = moments
        self._at = [t.parameter.detach().clone() for t in self._trained]
        self._optimizer = torch.optim.AdamW(
            [t.parameter for t in self._trained],
            lr=learning_rate,
            betas=moments.betas,
            eps=moments.eps,
            weight_decay=weight_decay,
        )

    @property
    def names(self) -> list[str]:
        """Canonical names of the trained parameters, in model order."""
        return [t.name for t in self._trained]

    def gradients(self, sample: EncodedSample, pad_id: int) -> tuple[float, Gradients]:
        """Mean loss over the label tokens of `sample` alone, and its gradient."""
        import torch

        with torch.enable_grad():
            loss = batch_losses(self._model, [sample], pad_id)[0] / sample.label_tokens
            found = torch.autograd.grad(loss, [t.parameter for t in self._trained], allow_unused=True)
        gradients = [
            np.zeros(t.shape, np.float32)
            if g is None
            else np.ascontiguousarray(as_matrix_order(t, g).float().cpu().numpy())
            for t, g in zip(self._trained, found, strict=True)
        ]
        return float(loss.detach()), gradients

    @contextmanager
    def stepped(self, gradients: Gradients) -> Iterator[None]:
        """The model after one step of torch's AdamW along `gradients`; afterwards it is what it was, to the bit."""
        import torch

        try:
            for t, g in zip(self._trained, gradients, strict=True):
                p = t.parameter
                m, v = (self._own(x, t) for x in self._moments[t.name])
                self._optimizer.state[p] = {
                    "step": torch.tensor(float(self._moments.step)),
                    "exp_avg": m,
                    "exp_avg_sq": v,
                }
                p.grad = self._own(torch.from_numpy(g), t)
            self._optimizer.step()
            yield
        finally:
            self._restore()
            self._optimizer.state.clear()
            self._optimizer.zero_grad()

    @contextmanager
    def jittered(self, rng: np.random.Generator) -> Iterator[None]:
        """The model with every trained parameter moved to a neighbouring number of its dtype, up or down by chance."""
        import torch

        try:
            with torch.no_grad():
                for t in self._trained:
                    up = torch.from_numpy(rng.integers(0, 2, size=tuple(t.parameter.shape)).astype(bool))
                    towards = torch.where(up.to(t.parameter.device), torch.inf, -torch.inf).to(t.parameter.dtype)
                    t.parameter.copy_(torch.nextafter(t.parameter, towards))
            yield
        finally:
            self._restore()

    def _own(self, tensor: torch.Tensor, t: Any) -> torch.Tensor:
        """A copy of `tensor`, in matrix order, stored as the parameter is."""
        stored = as_matrix_order(t, tensor)
        return stored.to(device=t.parameter.device, dtype=t.parameter.dtype, copy=True).contiguous()

    def _restore(self) -> None:
        import torch

        with torch.no_grad():
            for t, at in zip(self._trained, self._at, strict=True):
                t.parameter.copy_(at)


def mean_losses(
    model: Any, groups: Sequence[Sequence[int]], encoded: Sequence[EncodedSample], pad_id: int
) -> np.ndarray:
    """Mean over each group of `encoded` of every example's own mean loss, (S,) float64; the same batches always."""
    each = summed_losses(model, encoded, pad_id, lambda n: None) / np.array([e.label_tokens for e in encoded])
    return np.array([each[np.asarray(rows)].mean() for rows in groups])
