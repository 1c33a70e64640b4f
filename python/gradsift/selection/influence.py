"""Checkpoint weights and the columns that rows are scored against (docs/scoring.md has the formulae)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE
from gradsift.selection.sources import RowSource, SampleId

REDUCTIONS = ("less", "mean", "max", "cosine_to_mean")
# Of the targets in float64 at once: 4 MiB at P = 8192.
_TARGET_ROWS = 64
TARGET_DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Columns:
    """What rows are scored against: per checkpoint an array (S, P) float32, one column a subtask or a target.

    Attributes
    ----------
    at : one array a checkpoint
    names : (S,) what each column is: a subtask's name, or a target's id where every target has a column
    subtask : (S,) the subtask each column belongs to
    sizes : subtask → number of target rows, in order of first appearance
    """

    at: list[np.ndarray]
    names: list[SampleId]
    subtask: list[str]
    sizes: dict[str, int]

    def rounded(self, dtype: str) -> Columns:
        """With numbers that `dtype`, of TARGET_DTYPES, holds; "auto" is float32 here."""
        if dtype not in TARGET_DTYPES:
            raise ValueError(f"target_dtype: expected one of {TARGET_DTYPES}, got {dtype!r}")
        return self if dtype != "bfloat16" else replace(self, at=[_as_bfloat16(columns) for columns in self.at])


def checkpoint_weights(weights: Sequence[float] | None, sources: Sequence[RowSource]) -> tuple[np.ndarray, str]:
    """η̄, summing to 1, and where it comes from: given, the stores' mean learning rates, or equal."""
    count, origin = len(sources), "given"
    if weights is None:
        rates = [None if s.spec is None else s.spec.checkpoint.get("learning_rate") for s in sources]
        known = [r for r in rates if r is not None]
        if known and len(known) < count:
            lacking = rates.index(None)
            raise ValueError(
                f"weights: expected one per checkpoint, got None, and candidates[{lacking}] names no learning_rate "
                "though others do; pass weights=[...]"
            )
        weights, origin = (known, "learning_rate") if known else ([1.0] * count, "equal")
    if isinstance(weights, (str, bytes)) or not hasattr(weights, "__len__"):
        raise TypeError(f"weights: expected a sequence of numbers, got {type(weights).__name__}")
    if len(weights) != count:
        raise ValueError(f"weights: expected {count}, one per checkpoint, got {len(weights)}")
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"weights: expected numbers, got {list(weights)!r}") from error
    if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ValueError(f"weights: expected finite numbers >= 0, one at least above 0, got {list(weights)!r}")
    values = values / values.max()  # the sum of huge or tiny weights would overflow or vanish
    return values / values.sum(), origin


def target_columns(
    sources: Sequence[RowSource], ids: Sequence[SampleId], subtasks: Sequence[str] | None, reduce: str
) -> Columns:
    """Folds the target rows of every checkpoint into columns; refuses rows that say nothing."""
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce: expected one of {REDUCTIONS}, got {reduce!r}")
    n_targets = len(sources[0])
    if n_targets == 0:
        raise ValueError("targets: expected at least one row, got none")
    of_row = subtask_of_rows(subtasks, n_targets)
    sizes = {name: of_row.count(name) for name in dict.fromkeys(of_row)}
    number = {name: j for j, name in enumerate(sizes)}
    places = [number[name] for name in of_row]
    at = []
    for c, source in enumerate(sources):
        columns = np.zeros((n_targets if reduce == "max" else len(sizes), source.proj_dim))
        for first, raw in _target_rows(c, source, ids):
            rows = raw if reduce == "cosine_to_mean" else raw / np.linalg.norm(raw, axis=1, keepdims=True)
            if reduce == "max":
                columns[first : first + len(rows)] = rows
                continue
            for i, row in enumerate(rows):
                columns[places[first + i]] += row
        if reduce != "max":
            columns /= np.array(list(sizes.values()))[:, None]
        if reduce == "cosine_to_mean":
            norms = np.linalg.norm(columns, axis=1, keepdims=True)
            if not norms.all():
                name = list(sizes)[int(np.flatnonzero(norms == 0)[0])]
                raise ValueError(
                    f"targets[{c}]: expected a mean row other than zero in subtask {name!r}, got one of zeros, "
                    'to which no cosine is defined; use reduce="less"'
                )
            columns /= norms
        at.append(columns.astype(np.float32))
    if reduce == "max":
        return Columns(at, list(ids), of_row, sizes)
    return Columns(at, list(sizes), list(sizes), sizes)


def _as_bfloat16(columns: np.ndarray) -> np.ndarray:
    """float32 `columns`, each number the nearest bfloat16, to even between two."""
    bits = columns.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def subtask_of_rows(subtasks: Sequence[str] | None, n_targets: int) -> list[str]:
    """The subtask of every target row; one for all where none is given."""
    if subtasks is None:
        return ["target"] * n_targets
    if isinstance(subtasks, (str, bytes)) or not hasattr(subtasks, "__len__"):
        raise TypeError(f"subtasks: expected a sequence of str, one a target row, got {type(subtasks).__name__}")
    if len(subtasks) != n_targets:
        raise ValueError(f"subtasks: expected {n_targets} names, one a target row, got {len(subtasks)}")
    names = list(subtasks)
    for row, name in enumerate(names):
        if not isinstance(name, str):
            raise TypeError(f"subtasks: expected a str for every target row, got {type(name).__name__} in row {row}")
        if not name:
            raise ValueError(f"subtasks: expected a name for every target row, got '' in row {row}")
    return names


def _target_rows(c: int, source: RowSource, ids: Sequence[SampleId]) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first, rows (n, P) in float64), a few at a time; one that cannot be scored against is an error."""
    for block in source.blocks(_TARGET_ROWS):
        rows = np.asarray(block.rows, np.float64)
        unlabelled = (block.flags & FLAG_NO_LABELS) != 0
        nonfinite = (block.flags & FLAG_NONFINITE) != 0
        for contract, bad in (
            ("label tokens, got none, perhaps for truncation,", unlabelled),
            ("finite numbers, got NaN or infinity", nonfinite | ~np.isfinite(rows).all(axis=1)),
            ("a gradient other than zero, got zeros", ~rows.any(axis=1)),
        ):
            if bad.any():
                row = block.first + int(np.flatnonzero(bad)[0])
                raise ValueError(
                    f"targets[{c}]: expected {contract} in target {ids[row]!r} (row {row}; {int(bad.sum())} such rows "
                    "in this block); leave such targets out"
                )
        yield block.first, rows
