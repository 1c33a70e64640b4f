"""A selection that was made, opened again: to explain it, to report on it. No model and no tokenizer is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gradsift.data import Sample, SampleSet
from gradsift.datastore import Datastore
from gradsift.errors import ConfigError, DataError, DependencyMissingError
from gradsift.files import write_text
from gradsift.pipeline.config import RunConfig
from gradsift.pipeline.config_file import load_config
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import RunDirectory, read_json
from gradsift.pipeline.samples import read_pool, read_target, source_name, subtasks_of
from gradsift.report import render, require_report
from gradsift.selection import Explanation, explain
from gradsift.selection.explaining import Near, why, write_why
from gradsift.selection.output import FORMAT, VERSION
from gradsift.selection.problem import Problem, pose
from gradsift.selection.reporting import example_groups
from gradsift.selection.sources import ids_digest


def write_reports(run: Run) -> list[Path]:
    """``report.html`` of every selection of the run; where the extra for it is missing, says so instead."""
    try:
        require_report()
    except DependencyMissingError as error:
        run.reporter.say(f"no report.html: {error}")
        return []
    paths = [FinishedSelection.open(run.config, name).write_report() for name in selection_names(run.config)]
    for path in paths:
        run.reporter.say(f"report: {path}")
    return paths


def selection_names(config: RunConfig) -> list[str]:
    """The selections that were finished in the run directory of `config`."""
    root = Path(config.run_dir) / "selection"
    return [name for name in config.selections() if (root / name / "step.json").is_file()]


def run_config(folder: Path) -> RunConfig:
    """The configuration of the run in `folder`, wherever it was moved to."""
    path = folder / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{folder}: expected a run directory, got none (it has no config.json); name the configuration"
        )
    return load_config(path)


@dataclass(frozen=True)
class FinishedSelection:
    """One selection of a run: what was written, and what it was made from.

    Attributes
    ----------
    name, directory : as in the run directory
    record : what ``selection.json`` holds
    config : of the run
    """

    name: str
    directory: Path
    record: dict[str, Any]
    config: RunConfig

    @classmethod
    def open(cls, config: RunConfig, name: str | None = None) -> FinishedSelection:
        """The selection `name`; the only one where None.

        Raises
        ------
        ConfigError
            There is none, none of that name, or there are several and no name was given.
        DataError
            Its ``selection.json`` is not one that this program reads.
        """
        root, names = Path(config.run_dir) / "selection", selection_names(config)
        if not names:
            raise ConfigError(f"{root}: expected a finished selection, got none; make it with gradsift select")
        if name is None and len(names) > 1:
            raise ConfigError(f"selection: expected one of {', '.join(names)}, got none; say --selection NAME")
        if name is not None and name not in names:
            raise ConfigError(f"selection: expected one of {', '.join(names)}, got {name!r}")
        folder = root / (name or names[0])
        record = read_json(folder / "selection.json")
        written = (record.get("format"), record.get("version")) if isinstance(record, dict) else (None, None)
        if written != (FORMAT, VERSION):
            raise DataError(
                f"{folder / 'selection.json'}: expected format {FORMAT!r}, version {VERSION}, got {written[0]!r}, "
                f"version {written[1]}; remove {folder} and select again"
            )
        return cls(folder.name, folder, record, config)

    @cached_property
    def pool(self) -> SampleSet:
        """The candidates, which must be those that were selected from."""
        samples = read_pool(self.config)
        if ids_digest(samples.ids) != self.record["ids_digest"]["candidates"]:
            raise DataError(
                f"pool: expected the {self.record['counts']['pool']} samples that selection {self.name} was made from, "
                f"got {len(samples)} others or in another order; restore the files or select again"
            )
        return samples

    @cached_property
    def targets(self) -> dict[str, SampleSet]:
        return {name: read_target(self.config, name) for name in self.config.selections()[self.name]}

    @cached_property
    def _target_samples(self) -> dict[tuple[str, str], Sample]:
        return {(name, sample.id): sample for name, part in self.targets.items() for sample in part}

    def target_sample(self, near: Near) -> Sample:
        """The target example that `near` names; ids tell the examples of one target apart, not those of several."""
        target, _, _ = str(near.subtask).partition("/")  # as `subtasks_of` made it; no target's name has a slash
        return self._target_samples[target, str(near.id)]

    @property
    def kept_rows(self) -> bool:
        """Whether the sketches of the candidates were kept, and not their scores alone."""
        return not any("scored" in candidate for candidate in self.record["candidates"])

    @cached_property
    def problem(self) -> Problem:
        """What `gradsift.select` was given."""
        candidates, targets, weights, options = self._given()
        return pose(candidates, targets, weights, ids=None, allow_partial=False, **options)

    def explain(
        self,
        sample: str,
        *,
        closest: int = 5,
        neighbours: int = 5,
        progress: Callable[[int, int], object] | None = None,
    ) -> Explanation:
        """As `gradsift.explain`, with all that the selection was made with."""
        candidates, targets, weights, options = self._given()
        return explain(
            sample, candidates, targets, weights, closest=closest, neighbours=neighbours, progress=progress, **options
        )

    def in_words(self, explanation: Explanation) -> dict[str, Any]:
        """`explanation` as JSON values, with the place in this selection and the messages of every sample it names."""
        pool = {sample.id: sample for sample in self.pool}
        record = explanation.to_dict()
        record["selection"] = self.name
        record["selected_rank"] = self.selected_rank(record["id"])
        record["messages"] = list(pool[record["id"]].messages)
        for near, example in zip(record["closest_targets"], explanation.closest_targets, strict=True):
            near["messages"] = list(self.target_sample(example).messages)
        for near in record["neighbours"]:
            near["messages"] = list(pool[near["id"]].messages)
            near["selected_rank"] = self.selected_rank(near["id"])
        return record

    def write_why(self, *, neighbours: int = 3, progress: Callable[[int, int], object] | None = None) -> Path:
        """``why.jsonl`` beside ``selected.jsonl``."""
        path = self.directory / "why.jsonl"
        write_why(path, why(self.problem, self.record["positions"], neighbours=neighbours, progress=progress))
        return path

    def write_report(self) -> Path:
        """``report.html`` beside ``selected.jsonl``."""
        require_report()
        lacking = [key for key in ("diagnostics", "distributions") if key not in self.record]
        if lacking:
            raise DataError(
                f"{self.directory / 'selection.json'}: expected what a report shows, got a selection of an older "
                f"version without {' and '.join(lacking)}; remove {self.directory} and select again"
            )
        path = self.directory / "report.html"
        by_id = {sample.id: sample for sample in self.pool}
        problem = self.problem if self.kept_rows else None
        groups = example_groups(self.record, problem, by_id.get, self.target_sample, source_name)
        write_text(path, render(self.record, groups, name=self.name))
        return path

    def selected_rank(self, sample: str) -> int | None:
        """1 for the best of the selection; None where it was not selected."""
        ids = self.record["ids"]
        return ids.index(sample) + 1 if sample in ids else None

    def _given(self) -> tuple[list[Datastore], list[list[Datastore]], list[float], dict[str, Any]]:
        if not self.kept_rows:
            raise ConfigError(
                f"selection {self.name}: expected one by rows that were kept, got one by scores alone, which cannot be "
                'explained; collect with collect.keep = "rows", and select by gradients or embeddings'
            )
        directory, settings = RunDirectory(Path(self.config.run_dir), self.config), self.record["settings"]
        checkpoints = [c["checkpoint"]["name"] for c in self.record["candidates"]]
        target_ids = [sample.id for part in self.targets.values() for sample in part]
        if ids_digest(target_ids) != self.record["ids_digest"]["targets"]:
            expected = sum(settings["targets_per_subtask"].values())
            raise DataError(
                f"targets: expected the {expected} examples that selection {self.name} was made for, got "
                f"{len(target_ids)} others or in another order; restore the files or select again"
            )
        stores = [Datastore.open(directory.pool_store(c)) for c in checkpoints]
        for store, scored in zip(stores, self.record["candidates"], strict=True):
            if store.spec.digest != scored["store"]:
                raise DataError(
                    f"{store.path}: expected the rows that selection {self.name} was made from, got others, collected "
                    "since; select again"
                )
        return (
            stores,
            [[Datastore.open(directory.target_store(c, t)) for t in self.targets] for c in checkpoints],
            settings["weights"],
            {
                "reduce": settings["reduce"],
                "target_dtype": settings.get("target_dtype", "float32"),  # which older records do not name
                "subtasks": [s for name, part in self.targets.items() for s in subtasks_of(name, part)],
            },
        )
