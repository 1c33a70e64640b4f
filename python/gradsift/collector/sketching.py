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

    S·Γ(0) of a parameter, which momentum makes non-zero, is computed once and kept (P numbers a parameter).
    """

    def __init__(self, spec: ProjectionSpec, gamma: Gamma, moments: MomentsOf, backend: str) -> None:
        self.spec = spec
        self.gamma = gamma
        self._moments = moments
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
            _host(as_matrix_order(trained, grads).float()).contiguous(),
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
            _host(right),
            _host(left),
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
            _host(use.grads),
            self.spec,
            param=trained.name,
            gamma=self.gamma,
            moments=self._of(trained),
            shape=trained.shape,
            row_ids=_host(use.rows),
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
            row = torch.zeros(1, self.spec.proj_dim)
            norm = torch.zeros(1, 2, dtype=torch.float64)
            if len(trained.shape) == 2:
                d_out, d_in = trained.parameter.shape
                nothing = OuterUse(torch.empty(0, d_out), torch.empty(0, d_in), np.zeros(2, dtype=np.int64))
                self._add_outer(trained, nothing, row, norm)
            else:
                self.add_rows(trained, torch.zeros(1, *trained.parameter.shape), row, norm)
            self._at_zero[trained.name] = row, norm
        row, norm = self._at_zero[trained.name]
        rows += row
        norms += norm

    @property
    def _moves_at_zero(self) -> bool:
        """Whether Γ(0) may differ from 0: where momentum enters."""
        return self.gamma.kind in ("adam", "less", "affine")

    def _of(self, trained: TrainedParameter) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self._moments[trained.name] if self.gamma.needs_moments else None


def _host(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, where the ops run."""
    return tensor.detach().to("cpu")
