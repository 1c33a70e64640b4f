"""Scores of the pool at one checkpoint, kept instead of its rows: files of one unit each, written whole, resumable."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.datastore import Datastore
from gradsift.datastore.claims import Claim, claim_rows
from gradsift.errors import DatastoreCorruptError, DatastoreIncompleteError
from gradsift.files import atomic_bytes, make_folder
from gradsift.pipeline.run import Run
from gradsift.pipeline.samples import subtask_names
from gradsift.selection.collected import RowScores, TargetColumns
from gradsift.sketches import Sketches
from gradsift.specs import digest_of

_NAME = re.compile(r"rows-([0-9]{15})-([0-9]{8})\.npz", re.ASCII)


def score_settings(run: Run) -> dict[str, Any]:
    """What of the configuration decides the scores besides what decides the rows."""
    return {
        name: {
            "reduce": run.config.select.reduce,
            "targets": {t: run.targets[t].encoded.digest for t in targets},
            "subtasks": digest_of([s for t in targets for s in subtask_names(t, run.targets[t])]),
        }
        for name, targets in run.config.selections().items()
    }


def score_columns(run: Run, checkpoint: str) -> dict[str, TargetColumns]:
    """What each selection of the run scores rows against at `checkpoint`, whose targets are collected."""
    return {
        name: TargetColumns(
            [Datastore.open(run.directory.target_store(checkpoint, t)) for t in targets],
            subtasks=[s for t in targets for s in subtask_names(t, run.targets[t])],
            reduce=run.config.select.reduce,
            dtype=run.config.collect.dtype,
        )
        for name, targets in run.config.selections().items()
    }


class ScoreFiles:
    """Writes and reads the scores of N rows for every selection of a run.

    A unit's file, ``rows-<first>-<rows>.npz``, holds ``reason``, ``tokens`` and one array of scores a selection, in the
    order of `columns`; every array carries the checksum of its format (CRC-32).

    Parameters
    ----------
    path : directory, made if needed
    n_rows : int
    columns : selection → TargetColumns; may be left out for reading
    """

    def __init__(self, path: Path, n_rows: int, columns: Mapping[str, TargetColumns] | None = None) -> None:
        self._path = path
        self._columns = columns or {}
        make_folder(path)
        self._directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._there = np.zeros(n_rows, bool)
        self.refresh()

    def __enter__(self) -> ScoreFiles:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    def missing(self, n_rows: int | None = None) -> list[range]:
        """Ranges of row numbers without scores."""
        edges = np.flatnonzero(np.diff(self._there[:n_rows].astype(np.int8), prepend=1, append=1))
        return [range(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def claim(self, rows: range) -> Claim | None:
        """As `DatastoreWriter.claim`."""
        return claim_rows(self._directory, rows.start, rows.stop, str(self._path))

    def refresh(self) -> None:
        """Looks for files that other processes wrote since."""
        for first, stop, _ in self._files():
            self._there[first:stop] = True

    def append(self, ids: Sequence[str], sketches: Sketches, first: int) -> None:
        """Scores rows ``first …`` and keeps their scores; when it returns they survive a kill and a power loss."""
        parts = [columns.score(ids, sketches) for columns in self._columns.values()]
        arrays: dict[str, Any] = {f"scores-{i}": part.scores for i, part in enumerate(parts)}
        with atomic_bytes(self._path / f"rows-{first:015d}-{len(ids):08d}.npz") as file:
            np.savez(file, reason=parts[0].reason, tokens=parts[0].tokens, **arrays)
        self._there[first : first + len(ids)] = True

    def commit(self) -> None:
        """Nothing is left to be done: `append` publishes."""

    def read(self, selection: int, n_columns: int) -> RowScores:
        """Scores of all rows for the selection of that number, in order.

        Raises
        ------
        DatastoreCorruptError
            A file is damaged, or does not hold what its name says.
        DatastoreIncompleteError
            Rows have no scores yet.
        """
        n_rows = len(self._there)
        if self.missing():
            shown = ", ".join(f"{gap.start} … {gap.stop - 1}" for gap in self.missing()[:5])
            raise DatastoreIncompleteError(
                f"{self._path}: expected the scores of {n_rows} rows, got none for {int((~self._there).sum())} of them "
                f"({shown}); collect again"
            )
        found = RowScores(
            np.full((n_rows, n_columns), np.nan, np.float32), np.zeros(n_rows, np.uint8), np.zeros(n_rows, np.int64)
        )
        for first, stop, name in self._files():
            try:
                with np.load(self._path / name, allow_pickle=False) as arrays:
                    found.scores[first:stop] = arrays[f"scores-{selection}"]
                    found.reason[first:stop] = arrays["reason"]
                    found.tokens[first:stop] = arrays["tokens"]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                raise DatastoreCorruptError(
                    f"{self._path / name}: expected the scores of rows {first} … {stop - 1}, got: {error}; delete the "
                    "file and collect again"
                ) from error
        return found

    def _files(self) -> list[tuple[int, int, str]]:
        """(first, stop, name) of every file, rising."""
        found = []
        for name in os.listdir(self._path):
            match = _NAME.fullmatch(name)
            if match:
                first = int(match[1])
                found.append((first, first + int(match[2]), name))
        return sorted(found)
