"""What `select` and `explain` are both given, checked once: candidates, targets, weights, subtasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.selection.influence import Columns, checkpoint_weights, target_columns
from gradsift.selection.sources import (
    RowSource,
    SampleId,
    check_complete,
    check_ids,
    check_pair,
    checkpoint_names,
    open_sources,
    row_ids,
)


@dataclass(frozen=True)
class Problem:
    """C checkpoints of N candidates and M targets that belong together.

    Attributes
    ----------
    candidates, targets : (C,) row sources
    ids : (N,) of the candidates, None where no checkpoint has the row
    target_ids : (M,)
    subtasks : (M,) names, or None for one of all
    weights : (C,) float64, summing to 1
    weights_from : where they come from
    columns : what candidates are scored against
    reduce : how columns become the influence
    """

    candidates: list[RowSource]
    targets: list[RowSource]
    ids: list[SampleId | None]
    target_ids: list[SampleId]
    subtasks: Sequence[str] | None
    weights: np.ndarray
    weights_from: str
    columns: Columns
    reduce: str

    @property
    def checkpoints(self) -> list[str]:
        """(C,) the names that the stores give them, else their numbers."""
        return checkpoint_names(self.candidates)


def pose(
    candidates: Sequence[Any],
    targets: Sequence[Any],
    weights: Sequence[float] | None,
    *,
    reduce: str,
    subtasks: Sequence[str] | None,
    ids: Sequence[SampleId] | None,
    allow_partial: bool,
    target_dtype: str = "auto",
) -> Problem:
    """Opens and checks everything; raises what `select` says it raises."""
    pool_sources = open_sources("candidates", candidates, check_ids(ids))
    target_sources = open_sources("targets", targets, join=True)
    if len(pool_sources) != len(target_sources):
        raise ValueError(
            f"targets: expected {len(pool_sources)}, one per checkpoint as candidates, got {len(target_sources)}"
        )
    for c, (pool_source, target_source) in enumerate(zip(pool_sources, target_sources, strict=True)):
        check_pair(f"candidates[{c}]", pool_source, f"targets[{c}]", target_source)
    check_complete("targets", target_sources, advice="resume collecting")
    if not allow_partial:
        check_complete(
            "candidates",
            pool_sources,
            advice="resume collecting, or pass allow_partial=True to select among the rows that are there",
        )
    target_ids = [i for i in row_ids("targets", target_sources, allow_partial=False) if i is not None]
    pool_ids = row_ids("candidates", pool_sources, allow_partial=allow_partial)
    if not pool_ids:
        raise ValueError(
            "candidates: expected at least one row, got an empty pool; check that collecting found samples"
        )
    eta, weights_from = checkpoint_weights(weights, pool_sources)
    columns = target_columns(target_sources, target_ids, subtasks, reduce).rounded(target_dtype)
    return Problem(pool_sources, target_sources, pool_ids, target_ids, subtasks, eta, weights_from, columns, reduce)
