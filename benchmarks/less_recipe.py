"""The released LESS recipe for training samples, written from its formulae (less/data_selection/collect_grad_reps.py).

A batch is one sample; its gradient is concatenated; Adam's map is applied to the vector, with the code's own constants,
no bias correction and ε under the root; sixteen vectors are stacked, made float16 and given to a dense projector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

import gradsift as gs
from gradsift.collector import Moments

PROJECT_INTERVAL = 16
Batch = dict[str, torch.Tensor]


class LessRecipe:
    def __init__(self, model: Any, moments: Moments) -> None:
        self._model = model
        self._trained = [(gs.canonical_name(n), p) for n, p in model.named_parameters() if p.requires_grad]
        self._avg = torch.cat([moments[name][0].reshape(-1) for name, _ in self._trained])
        self._avg_sq = torch.cat([moments[name][1].reshape(-1) for name, _ in self._trained])

    @property
    def entries(self) -> int:
        return self._avg.numel()

    def vector(self, batch: Batch) -> torch.Tensor:
        """Γ of the one sample in `batch`."""
        self._model(**batch).loss.backward()
        grads = torch.cat([p.grad.view(-1) for _, p in self._trained if p.grad is not None])
        updated_avg = 0.9 * self._avg + 0.1 * grads
        updated_avg_sq = 0.999 * self._avg_sq + 0.001 * grads**2
        self._model.zero_grad()
        return updated_avg / torch.sqrt(updated_avg_sq + 1e-8)

    def collect(self, alone: Sequence[Batch], project: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """What `project` makes of the vectors of `alone`, batches of one, sixteen at a time."""
        rows: list[torch.Tensor] = []
        waiting: list[torch.Tensor] = []
        for batch in alone:
            waiting.append(self.vector(batch))
            if len(waiting) == PROJECT_INTERVAL:
                rows.append(project(torch.stack(waiting).to(torch.float16)).cpu())
                waiting = []
        if waiting:
            rows.append(project(torch.stack(waiting).to(torch.float16)).cpu())
        return torch.cat(rows)


def no_projection(stacked: torch.Tensor) -> torch.Tensor:
    """In place of a projector whose time is measured on a slice."""
    return stacked[:, :1]
