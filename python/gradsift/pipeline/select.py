"""Steps 4 and 5: influence, and the selection made by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradsift.datastore import Datastore
from gradsift.pipeline.collect import collect
from gradsift.pipeline.finished import FinishedSelection
from gradsift.pipeline.run import Run
from gradsift.pipeline.samples import source_name, subtask_names
from gradsift.pipeline.training import checkpoint_record
from gradsift.selection import Selection, select
from gradsift.specs import digest_of


def selection_targets(run: Run) -> dict[str, list[str]]:
    """The selections of this run, by name, each with the targets it is for."""
    if run.config.select.per_target:
        return {name: [name] for name in run.config.targets}
    return {"selected": list(run.config.targets)}


def select_samples(run: Run, *, why: bool = False) -> list[Path]:
    """Makes every selection of the run; returns their directories. With `why`, ``why.jsonl`` explains each sample."""
    checkpoints = collect(run)
    directories = [_select_one(run, checkpoints, name, targets) for name, targets in selection_targets(run).items()]
    if why:
        for directory in directories:
            path = FinishedSelection.open(run.config, directory.name).write_why()
            run.reporter.say(f"selection {directory.name}: why, in {path}")
    return directories


def _select_one(run: Run, checkpoints: list[Path], name: str, targets: list[str]) -> Path:
    directory = run.directory.selection(name)
    candidates, target_stores, subtasks = _stores(run, checkpoints, targets)
    sources = [source_name(sample) for sample in run.pool.samples]
    settings = {
        "select": run.config.select.model_dump(),
        "subtasks": digest_of(subtasks),
        "candidates": [s.spec.digest for s in candidates],
        "targets": {t: [row[i].spec.digest for row in target_stores] for i, t in enumerate(targets)},
    }
    changed = run.directory.was_done_otherwise(directory, settings)
    if not changed and (directory / "step.json").is_file():
        run.reporter.say(f"selection {name}: there already")
        return directory
    for line in changed:
        run.reporter.say(f"selection {name}: made again, since {line}")
    result = scored(
        run,
        checkpoints,
        targets,
        f"selection {name}",
        lengths=run.pool.encoded.lengths,
        groups=sources,
        **run.config.select.arguments(),
    ).with_sources(sources)
    for stale in ("step.json", "why.jsonl", "report.html"):
        (directory / stale).unlink(missing_ok=True)
    result.save(directory, run.pool.samples, prefix=run.config.select.key_prefix)
    run.directory.finish(directory, settings)
    for line in summary_lines(name, result):
        run.reporter.say(line)
    return directory


def scored(run: Run, checkpoints: list[Path], targets: list[str], title: str, **arguments: Any) -> Selection:
    """What `gradsift.select` makes, with `arguments`, of the stores of the run for `targets`."""
    candidates, target_stores, subtasks = _stores(run, checkpoints, targets)
    with run.reporter.task(title, len(candidates[0]), "rows") as advance:
        done = 0

        def progress(rows: int, total: int) -> None:
            nonlocal done
            advance(rows - done)
            done = rows

        return select(
            candidates=candidates,
            targets=target_stores,
            weights=[checkpoint_record(c)["learning_rate"] for c in checkpoints],
            subtasks=subtasks,
            progress=progress,
            **arguments,
        )


def _stores(
    run: Run, checkpoints: list[Path], targets: list[str]
) -> tuple[list[Datastore], list[list[Datastore]], list[str]]:
    """Candidates and targets at every checkpoint, and the subtask of every target row."""
    candidates = [Datastore.open(run.directory.pool_store(c.name)) for c in checkpoints]
    of_targets = [[Datastore.open(run.directory.target_store(c.name, t)) for t in targets] for c in checkpoints]
    return candidates, of_targets, [subtask for t in targets for subtask in subtask_names(t, run.targets[t])]


def summary_lines(name: str, result: Any) -> list[str]:
    """What a person wants to know of a selection at once."""
    excluded = {k: v for k, v in result.counts.items() if k.startswith("excluded") and v}
    lines = [f"selection {name}: {len(result.ids)} of {result.counts['pool']} samples"]
    if excluded:
        lines.append("  left out: " + ", ".join(f"{n} {k.removeprefix('excluded_')}" for k, n in excluded.items()))
    if result.counts.get("near_duplicates"):
        lines.append(f"  passed over: {result.counts['near_duplicates']} near-duplicates of samples taken before")
    if "selected_tokens" in result.counts:
        lines.append(f"  {result.counts['selected_tokens']} of {result.counts['requested_tokens']} tokens")
    if len(result.scores):
        lines.append(f"  influence from {result.scores.max():.4f} down to {result.scores.min():.4f}")
    return lines + [f"  warning: {text}" for text in result.diagnostics["warnings"]]
