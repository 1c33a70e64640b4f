"""What a selection is, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from gradsift.errors import DataError
from gradsift.files import atomic_text
from gradsift.selection.explaining import Explanation, why
from gradsift.selection.problem import Problem
from gradsift.selection.sources import SampleId

KEYS = ("influence", "rank", "best_target")
FORMAT, VERSION = "gradsift.selection", 1


class SampleLike(Protocol):
    """A sample with the record it was read from; `gradsift.data.Sample` is one."""

    @property
    def id(self) -> SampleId: ...
    @property
    def record(self) -> Mapping[str, Any]: ...


Samples: TypeAlias = Mapping[SampleId, Mapping[str, Any]] | Iterable[SampleLike]


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """k selected candidates, best first, and what the scan learned about all N of the pool.

    Attributes
    ----------
    ids : (k,) ids of the selected candidates
    positions : (k,) int64, their row numbers in the pool
    scores : (k,) float32, the influence each was chosen by; with "round_robin" the score of the column that took it
    best_subtask : (k,) name of the subtask each scores highest for (with "round_robin": of the one that took it)
    best_target : (k,) the same, but the id of the target example where every target has a column (reduce="max")
    subtasks : names of all subtasks, in order
    counts : ``pool``, ``requested``, ``selected``, ``eligible``, and ``excluded_<reason>`` for each reason
    record : settings, digests and versions, enough to repeat the selection, and measurements of the pool
    influence : (N,) float32, of every row; NaN where the row is excluded. Where the settings name a screening margin,
        that of rows beyond the selection's reach may be off by as much
    subtask_scores : (N, S) float32 or None; the columns are `columns`
    columns : (S,) names of the columns: subtasks, or target ids with reduce="max"
    problem : what was selected from, for `why` and `report` to read rows again; None where no rows were kept
    """

    ids: list[SampleId]
    positions: np.ndarray
    scores: np.ndarray
    best_subtask: list[str]
    best_target: list[SampleId]
    subtasks: list[str]
    counts: dict[str, int]
    record: dict[str, Any]
    influence: np.ndarray
    subtask_scores: np.ndarray | None
    columns: list[SampleId]
    problem: Problem | None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        how = self.record["settings"]
        return f"<Selection: {len(self)} of {self.counts['pool']} by {how['selector']}, reduce={how['reduce']!r}>"

    @property
    def diagnostics(self) -> dict[str, Any]:
        """How far the selection can be trusted, as ``selection.json`` has it; docs/scoring.md explains each figure.

        ``spread`` (mean and standard deviation of the scores at each checkpoint for each subtask, and what is left of
        it without the projection's noise), ``influence`` (the same of what rows are ranked by), ``implied_recall`` (of
        the true top, by ``proj_dim``), ``score_length_spearman``, ``flagged`` (share of the pool, by reason),
        ``sources`` (samples by where they come from; None unless `with_sources` told), ``warnings`` (sentences).
        """
        found: dict[str, Any] = self.record["diagnostics"]
        return found

    def with_sources(self, names: Sequence[str]) -> Selection:
        """The same selection, whose diagnostics count samples by source: `names` has one for each row of the pool."""
        if len(names) != self.counts["pool"]:
            raise ValueError(f"names: expected {self.counts['pool']}, one a row of the pool, got {len(names)}")
        counts = {
            "pool": dict(Counter(names).most_common()),
            "selected": dict(Counter(names[i] for i in self.positions.tolist()).most_common()),
        }
        return replace(self, record=self.record | {"diagnostics": self.diagnostics | {"sources": counts}})

    def why(self, *, closest: int = 3, neighbours: int = 3) -> list[Explanation]:
        """What each selected row's influence is made of, best first.

        By subtask and checkpoint, with its `closest` target examples and its `neighbours` in the pool. Reads the
        selected rows once more, some 8 MiB a checkpoint at a time; for neighbours also the pool, once for every 256
        selected rows, at 2·k·N·P·C operations: none are looked for with 0.

        Raises
        ------
        ValueError
            The selection was made of rows that were not kept.
        """
        if self.problem is None:
            raise ValueError("why: expected a selection from rows that can be read again, got one of scores alone")
        return list(why(self.problem, self.positions.tolist(), closest=closest, neighbours=neighbours))

    def report(
        self,
        path: str | os.PathLike[str],
        samples: Samples = (),
        target_samples: Samples = (),
        *,
        name: str = "selection",
    ) -> None:
        """Writes one self-contained HTML page: selected against pool, how far to trust it, samples to read, settings.

        Parameters
        ----------
        path : written whole or not at all; what was there is replaced
        samples, target_samples : as `to_jsonl` takes them, for the texts of candidates and target examples
            What is not among them is shown by its id alone.
        name : the title

        Raises
        ------
        DependencyMissingError
            Without the extra ``report`` (jinja2, matplotlib).
        """
        from gradsift.report import render
        from gradsift.selection.reporting import example_groups

        record = self.to_dict()
        marks = [row["id"] for rows in record["distributions"]["landmarks"].values() for row in rows]
        of_pool = _found({*self.ids, *marks}, samples)
        of_targets = _found(set(() if self.problem is None else self.problem.target_ids), target_samples)
        groups = example_groups(record, self.problem, of_pool.get, lambda near: of_targets.get(near.id), _dataset)
        page = render(record, groups, name=name)
        with atomic_text(path) as file:
            file.write(page)

    def to_jsonl(self, path: str | os.PathLike[str], samples: Samples, *, prefix: str = "") -> None:
        """Writes the selected records, best first, each as it was read plus three keys.

        ``influence`` (float), ``rank`` (1 is best), ``best_target`` (see the attribute).

        Parameters
        ----------
        path : written whole or not at all; what was there is replaced
        samples : mapping from id to record, or samples with ``id`` and ``record``, such as a ``SampleSet``
        prefix : put before the three keys

        Raises
        ------
        DataError
            A selected id is not among the samples or there twice; a record has one of the keys already (nothing of a
            record is overwritten: pass a `prefix`); a record is not JSON.
        DiskFullError
            The disk is full. Nothing was written.
        """
        lines = self._lines(samples, prefix)
        with atomic_text(path) as file:
            file.writelines(lines)

    def save(self, directory: str | os.PathLike[str], samples: Samples, *, prefix: str = "") -> None:
        """Writes ``selected.jsonl`` (as `to_jsonl`) and then ``selection.json`` into `directory`, made if needed.

        ``selection.json`` holds `record`, `counts`, the ids, positions, scores and best targets, and the BLAKE2b-128 of
        ``selected.jsonl``: one that does not fit shows a write cut short between the two.
        """
        directory = Path(directory)
        lines = self._lines(samples, prefix)
        directory.mkdir(parents=True, exist_ok=True)
        digest = hashlib.blake2b(digest_size=16)
        with atomic_text(directory / "selected.jsonl") as file:
            for line in lines:
                digest.update(line.encode())
                file.write(line)
        with atomic_text(directory / "selection.json") as file:
            json.dump(self.to_dict() | {"selected_jsonl_digest": digest.hexdigest()}, file, indent=1, allow_nan=False)
            file.write("\n")

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays of the whole pool, as JSON values."""
        return self.record | {
            "counts": self.counts,
            "subtasks": self.subtasks,
            "ids": self.ids,
            "positions": self.positions.tolist(),
            "influence": self.scores.tolist(),
            "best_target": self.best_target,
        }

    def _lines(self, samples: Samples, prefix: str) -> list[str]:
        records = _records_of(self.ids, samples)
        keys = [prefix + key for key in KEYS]
        lines = []
        for rank, (i, score, best) in enumerate(
            zip(self.ids, self.scores.tolist(), self.best_target, strict=True), start=1
        ):
            record = records[i]
            taken = [key for key in keys if key in record]
            if taken:
                raise DataError(
                    f"samples: expected records without the keys {keys}, got {taken} in sample {i!r}; "
                    'nothing is overwritten: pass prefix="gradsift_" or rename the keys'
                )
            lines.append(_json_line(i, {**record, **dict(zip(keys, (score, rank, best), strict=True))}))
        return lines


def _records_of(ids: Sequence[SampleId], samples: Samples) -> dict[SampleId, Mapping[str, Any]]:
    found = _found(set(ids), samples)
    missing = [i for i in ids if i not in found]
    if missing:
        raise DataError(
            f"samples: expected the samples the rows were collected from, got none for {len(missing)} of {len(ids)} "
            f"selected ids (first: {missing[:3]!r}); read the same sources"
        )
    return found


def _dataset(record: Mapping[str, Any]) -> str | None:
    return record.get("dataset")


def _found(wanted: set[SampleId], samples: Samples) -> dict[SampleId, Mapping[str, Any]]:
    """The records of those of `wanted` that are among `samples`."""
    if isinstance(samples, Mapping):
        return {i: samples[i] for i in wanted if i in samples}
    found: dict[SampleId, Mapping[str, Any]] = {}
    for sample in samples:
        if not (hasattr(sample, "id") and hasattr(sample, "record")):
            raise TypeError(
                "samples: expected a mapping from id to record, or samples with .id and .record, "
                f"got a {type(sample).__name__} among them"
            )
        if sample.id in wanted:
            if sample.id in found:
                raise DataError(f"samples: expected each id once, got {sample.id!r} twice; ids must tell samples apart")
            found[sample.id] = sample.record
    return found


def _json_line(sample_id: SampleId, record: dict[str, Any]) -> str:
    try:
        line = json.dumps(record, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"samples: expected records of JSON values, got {error} in sample {sample_id!r}; "
            "convert such values to text"
        ) from error
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write only as \uXXXX
        line = json.dumps(record)
    return line + "\n"
