"""The best that a careful user could put together in torch: a loop of single samples, or hooks on batches.

Both leave out what can be left out: no gradient of frozen parameters, logits at label positions only, Adam's map tensor
by tensor in reused buffers with its constants folded into the moments, and a sparse projection (SJLT, one signed entry
an input) by `index_add_` in pieces that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

import gradsift as gs
from gradsift.collector import Moments

Batch = dict[str, torch.Tensor]


class _Sketcher:
    """Γ and projection of one parameter's gradient, added to a row."""

    def __init__(self, trained: list[tuple[str, torch.Tensor]], moments: Moments, proj_dim: int) -> None:
        generator = torch.Generator().manual_seed(0)
        t = moments.step + 1
        first, second = 1 - moments.betas[0] ** t, 1 - moments.betas[1] ** t
        self._of_grad = (1 - moments.betas[0]) / first, (1 - moments.betas[1]) / second
        self._eps = moments.eps
        self._at: dict[str, tuple[torch.Tensor, ...]] = {}
        for name, parameter in trained:
            avg, avg_sq = (moments[name][i].reshape(-1) for i in (0, 1))
            n = parameter.numel()
            index = torch.randint(proj_dim, (n,), generator=generator)
            sign = torch.randint(2, (n,), generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)
            self._at[name] = moments.betas[0] / first * avg, moments.betas[1] / second * avg_sq, index, sign
        largest = max(p.numel() for _, p in trained)
        self._grad, self._up, self._down = (torch.empty(largest) for _ in range(3))

    def add(self, name: str, grad: torch.Tensor, row: torch.Tensor) -> None:
        avg, avg_sq, index, sign = self._at[name]
        n = grad.numel()
        g = self._grad[:n].copy_(grad.reshape(-1))
        up = torch.add(avg, g, alpha=self._of_grad[0], out=self._up[:n])
        down = torch.addcmul(avg_sq, g, g, value=self._of_grad[1], out=self._down[:n])
        row.index_add_(0, index, up.div_(down.sqrt_().add_(self._eps)).mul_(sign))


def _loss(model: Any, batch: Batch) -> torch.Tensor:
    """Sum over samples of the mean loss over each one's labels; the output layer sees label positions only."""
    language_model = model.get_base_model()
    hidden = language_model.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    labels = batch["labels"][:, 1:]
    wanted = labels != -100
    logits = language_model.lm_head(hidden[:, :-1][wanted])
    each = torch.nn.functional.cross_entropy(logits.float(), labels[wanted], reduction="none")
    weight = (1 / wanted.sum(1).clamp(min=1)).repeat_interleave(wanted.sum(1))
    return (each * weight).sum()


class UserLoop:
    """Batches of one."""

    def __init__(self, model: Any, moments: Moments, proj_dim: int) -> None:
        self._model = model
        self._trained = [(gs.canonical_name(n), p) for n, p in model.named_parameters() if p.requires_grad]
        self._proj_dim = proj_dim
        self._sketcher = _Sketcher(self._trained, moments, proj_dim)

    def collect(self, alone: Sequence[Batch]) -> torch.Tensor:
        rows = torch.zeros(len(alone), self._proj_dim)
        for row, batch in zip(rows, alone, strict=True):
            grads = torch.autograd.grad(_loss(self._model, batch), [p for _, p in self._trained])
            for (name, _), grad in zip(self._trained, grads, strict=True):
                self._sketcher.add(name, grad, row)
        return rows


class UserHooks:
    """Padded batches; per-sample gradients are formed, used and dropped as the backward passes each adapter layer."""

    def __init__(self, model: Any, moments: Moments, proj_dim: int) -> None:
        self._model = model
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        trained = [(gs.canonical_name(n), p) for n, p in model.named_parameters() if p.requires_grad]
        self._sketcher = _Sketcher(trained, moments, proj_dim)
        names = {id(p): name for name, p in trained}
        self._layers = [(names[id(m.weight)], m) for m in model.modules() if id(getattr(m, "weight", None)) in names]
        self._proj_dim = proj_dim
        self._rows = torch.empty(0)
        self._room: dict[tuple[int, ...], torch.Tensor] = {}

    def collect(self, padded: Sequence[Batch]) -> torch.Tensor:
        handles = [layer.register_forward_hook(self._catch(name)) for name, layer in self._layers]
        embedding = self._model.get_input_embeddings()
        # No parameter requires a gradient, so that none is formed; the graph then begins at the embeddings.
        handles.append(embedding.register_forward_hook(lambda module, args, output: output.requires_grad_()))
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        found = []
        try:
            for batch in padded:
                self._rows = torch.zeros(len(batch["input_ids"]), self._proj_dim)
                _loss(self._model, batch).backward()
                found.append(self._rows)
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self._parameters:
                parameter.requires_grad_(True)
        return torch.cat(found)

    def _catch(self, name: str) -> Any:
        def forward(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
            activations = args[0].detach()
            output.register_hook(lambda grad: self._use(name, activations, grad))

        return forward

    def _use(self, name: str, activations: torch.Tensor, output_grads: torch.Tensor) -> None:
        shape = (output_grads.shape[2], activations.shape[2])
        if shape not in self._room:
            self._room[shape] = torch.empty(math.prod(shape), dtype=activations.dtype).view(shape)
        for row, a, g in zip(self._rows, activations, output_grads, strict=True):
            self._sketcher.add(name, torch.mm(g.T, a, out=self._room[shape]), row)
