"""From the uses of a parameter to rows of sketches: the one place that calls the projection ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gradsift.collector.parameters import TrainedParameter, as_matrix_order
from gradsift.collector.uses import OuterUse, RowsUse, SparseUse, Use, join_outer, join_sparse
from gradsift.ops import project_linear, project_rows
from gradsift.specs import Gamma, ProjectionSpec

MomentsOf = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class Projector:
    """Knows projection, Γ and moments; adds parameters' sketches to the rows of a batch.

    S·Γ(0) of a parameter, which momentum makes non-zero, is computed once and kept (P numbers a parameter). All is done
    on `device`; moments are copied there once, when their parameter is first met.
    """

    def __init__(
        self, spec: ProjectionSpec, gamma: Gamma, moments: MomentsOf, backend: str, device: torch.device
    ) -> None:
        self.spec = spec
        self.gamma = gamma
        self.device = device
        self._moments = moments
        self._moments_here: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._backend = backend
        self._at_zero: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, trained: TrainedParameter, uses: Sequence[Use], rows: torch.Tensor, norms: torch.Tensor) -> str:
        """Adds the sketches of Γ(Σ uses) to `rows` (B, P) float32 and the squared norms to `norms` (B, 2) float64.

        Returns how: ``"linear"``, ``"rows"``, ``"sparse"``, ``"dense"`` or ``"zero"`` (not used at all).
        """
        outer = [u for u in uses if isinstance(u, OuterUse)]
        dense = [u for u in uses if isinstance(u, RowsUse)]
        sparse = [u for u in uses if isinstance(u, SparseUse)]
        if not uses:
            self._add_zero(trained, rows, norms)
            return "zero"
        if len(outer) == len(uses):
            self._add_outer(trained, join_outer(outer), rows, norms)
            return "linear"
        if len(dense) == len(uses):
            total = dense[0].grads if len(dense) == 1 else torch.stack([u.grads for u in dense]).sum(0)
            self.add_rows(trained, total, rows, norms)
            return "rows"
        if len(sparse) == len(uses):
            self._add_sparse(trained, join_sparse(sparse, int(trained.parameter.shape[0])), rows, norms)
            return "sparse"
        # Γ needs the whole sum, and its parts have no common form: one sample at a time in one buffer.
        grad = torch.empty(trained.parameter.shape, device=trained.parameter.device)
        for b in range(len(rows)):
            grad.zero_()
            for use in uses:
                use.add_dense(b, grad)
            self.add_rows(trained, grad[None], rows[b : b + 1], norms[b : b + 1])
        return "dense"

    def add_rows(self, trained: TrainedParameter, grads: torch.Tensor, rows: torch.Tensor, norms: torch.Tensor) -> None:
        """The same for gradients (B, *stored shape) that exist already."""
        project_rows(
            self._here(as_matrix_order(trained, grads).float()).contiguous(),
            self.spec,
            param=trained.name,
            gamma=self.gamma,
            moments=self._of(trained),
            out=rows,
            norms=norms,
            accumulate=True,
            backend=self._backend,
        )

    def _add_outer(self, trained: TrainedParameter, use: OuterUse, rows: torch.Tensor, norms: torch.Tensor) -> None:
        left, right = (use.right, use.left) if trained.transposed else (use.left, use.right)
        project_linear(
            self._factor(right),
            self._factor(left),
            self.spec,
            param=trained.name,
            cu_seqlens=use.offsets,
            gamma=self.gamma,
            moments=self._of(trained),
            out=rows,
            norms=norms,
            accumulate=True,
            backend=self._backend,
        )

    def _add_sparse(self, trained: TrainedParameter, use: SparseUse, rows: torch.Tensor, norms: torch.Tensor) -> None:
        # S·Γ(g) = S·Γ(0) + S·(Γ(g) − Γ(0)), and the difference is zero on rows that were not touched.
        self._add_zero(trained, rows, norms)
        self._sparse(trained, use, rows, norms)
        if self._moves_at_zero:
            untouched = torch.zeros_like(rows), torch.zeros_like(norms)
            self._sparse(
                trained, SparseUse(use.rows, torch.zeros_like(use.grads), use.offsets), untouched[0], untouched[1]
            )
            rows -= untouched[0]
            norms -= untouched[1]

    def _sparse(self, trained: TrainedParameter, use: SparseUse, rows: torch.Tensor, norms: torch.Tensor) -> None:
        project_rows(
            self._here(use.grads),
            self.spec,
            param=trained.name,
            gamma=self.gamma,
            moments=self._of(trained),
            shape=trained.shape,
            row_ids=use.rows.detach(),
            cu_seqlens=use.offsets,
            out=rows,
            norms=norms,
            accumulate=True,
            backend=self._backend,
        )

    def _add_zero(self, trained: TrainedParameter, rows: torch.Tensor, norms: torch.Tensor) -> None:
        if not self._moves_at_zero:
            return
        if trained.name not in self._at_zero:
            row = torch.zeros(1, self.spec.proj_dim, device=self.device)
            norm = torch.zeros(1, 2, dtype=torch.float64, device=self.device)
            if len(trained.shape) == 2:
                left, right = (torch.empty(0, d, device=self.device) for d in trained.parameter.shape)
                self._add_outer(trained, OuterUse(left, right, np.zeros(2, dtype=np.int64)), row, norm)
            else:
                self.add_rows(trained, torch.zeros(1, *trained.parameter.shape, device=self.device), row, norm)
            self._at_zero[trained.name] = row, norm
        row, norm = self._at_zero[trained.name]
        rows += row
        norms += norm

    @property
    def _moves_at_zero(self) -> bool:
        """Whether Γ(0) may differ from 0: where momentum enters."""
        return self.gamma.kind in ("adam", "less", "affine")

    def _of(self, trained: TrainedParameter) -> tuple[torch.Tensor, torch.Tensor] | None:
        if not self.gamma.needs_moments:
            return None
        if trained.name not in self._moments_here:
            m, v = self._moments[trained.name]
            self._moments_here[trained.name] = self._here(m), self._here(v)
        return self._moments_here[trained.name]

    def _factor(self, tensor: torch.Tensor) -> torch.Tensor:
        here = self._here(tensor)
        return here.float() if here.dtype == torch.float16 and self.device.type == "cpu" else here

    def _here(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self.device)


def projection_device(model_device: torch.device, backend: str) -> torch.device:
    """Where the ops run: with the model, if that is on a CUDA device and no backend of the CPU was asked for."""
    if model_device.type == "cuda" and backend not in ("cpu", "reference"):
        return model_device
    return torch.device("cpu")
