"""Steps 4 and 5: influence, and the selection made by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradsift.data import Sample
from gradsift.datastore import Datastore, convert
from gradsift.errors import ConfigError
from gradsift.pipeline.collect import collect, step_of
from gradsift.pipeline.embed import CHECKPOINT, embed
from gradsift.pipeline.finished import FinishedSelection
from gradsift.pipeline.progress import by_total
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import read_json
from gradsift.pipeline.samples import source_name, subtask_names
from gradsift.pipeline.scores import ScoreFiles, score_columns
from gradsift.pipeline.training import checkpoint_record
from gradsift.selection import Selection, select, select_by_text
from gradsift.selection.collected import choose_collected
from gradsift.specs import digest_of


def selection_targets(run: Run) -> dict[str, list[str]]:
    """The selections of this run, by name, each with the targets it is for."""
    return run.config.selections()


def select_samples(run: Run, *, why: bool = False, neighbours: int = 3) -> list[Path]:
    """Makes every selection of the run; returns their directories.

    With `why`, ``why.jsonl`` explains each sample, with so many `neighbours` in the pool.
    """
    if why and (run.config.scores_alone or run.config.select.by == "text"):
        raise ConfigError(
            'collect.keep, select.selector: expected "rows" and gradients or embeddings to say why samples were '
            f'selected, got "{run.config.collect.keep}" and "{run.config.select.selector}"'
        )
    checkpoints = _checkpoints(run)
    directories = [_select_one(run, checkpoints, name, targets) for name, targets in selection_targets(run).items()]
    if why:
        for directory in directories:
            path = _write_why(run, FinishedSelection.open(run.config, directory.name), neighbours)
            run.reporter.say(f"selection {directory.name}: why, in {path}")
    return directories


def _write_why(run: Run, of: FinishedSelection, neighbours: int) -> Path:
    if not neighbours:
        return of.write_why(neighbours=0)
    pairs = len(of.record["ids"]) * of.record["counts"]["pool"]
    with run.reporter.task(f"why, {of.name}: neighbours", pairs, "pairs") as advance:
        return of.write_why(neighbours=neighbours, progress=by_total(advance))


def _checkpoints(run: Run) -> list[Path]:
    """Where samples are compared, once everything is there that they are compared by; none for text."""
    if run.config.select.by == "gradients":
        return collect(run)
    if run.config.select.by == "embeddings":
        return [embed(run)]
    run.read_everything()
    run.write_down()
    return []


def _select_one(run: Run, checkpoints: list[Path], name: str, targets: list[str]) -> Path:
    directory = run.directory.selection(name)
    sources = [source_name(sample) for sample in run.pool.samples]
    target_stores, subtasks = _targets(run, checkpoints, targets)
    by_text = run.config.select.by == "text"
    settings = {
        "select": run.config.select.model_dump(),
        "subtasks": digest_of(subtasks),
        "candidates": [run.pool.samples.digest] if by_text else [_pool_digest(run, c) for c in checkpoints],
        "targets": {
            t: [run.targets[t].samples.digest] if by_text else [row[i].spec.digest for row in target_stores]
            for i, t in enumerate(targets)
        },
    }
    changed = run.directory.was_done_otherwise(directory, settings)
    if not changed and (directory / "step.json").is_file():
        run.reporter.say(f"selection {name}: there already")
        return directory
    for line in changed:
        run.reporter.say(f"selection {name}: made again, since {line}")
    arguments = {"lengths": run.pool.encoded.lengths, "groups": sources, **run.config.select.arguments()}
    try:
        if by_text:
            result = _by_text(run, targets, subtasks, arguments)
        else:
            coarse = run.config.select.scan_dtype
            result = scored(run, checkpoints, name, f"selection {name}", scan_dtype=coarse, **arguments)
    except ValueError as error:  # such as quotas of bands of length that the pool has not: only the samples show it
        raise ConfigError(f"selection {name}: {error}") from error
    result = result.with_sources(sources)
    for stale in ("step.json", "why.jsonl", "report.html"):
        (directory / stale).unlink(missing_ok=True)
    result.save(directory, run.pool.samples, prefix=run.config.select.key_prefix)
    run.directory.finish(directory, settings)
    for line in summary_lines(name, result):
        run.reporter.say(line)
    return directory


def scored(
    run: Run, checkpoints: list[Path], name: str, title: str, *, scan_dtype: str | None = None, **arguments: Any
) -> Selection:
    """What `gradsift.select` makes, with `arguments`, of the stores of the run, or of scores that were kept instead.

    With `scan_dtype` it scans copies of the stores in that dtype and scores the best again from the stores.
    """
    if run.config.collect.keep == "scores" and all(c.name != CHECKPOINT for c in checkpoints):
        return _by_scores(run, checkpoints, name, arguments)
    candidates = [Datastore.open(run.directory.pool_store(c.name)) for c in checkpoints]
    if scan_dtype is not None:
        arguments["rescore"] = candidates
        candidates = [_coarse_store(run, c.name, scan_dtype, len(candidates[0])) for c in checkpoints]
    target_stores, subtasks = _targets(run, checkpoints, selection_targets(run)[name])
    with run.reporter.task(title, len(candidates[0]), "rows") as advance:
        return select(
            candidates=candidates,
            targets=target_stores,
            weights=_weights(checkpoints),
            subtasks=subtasks,
            progress=by_total(advance),
            **arguments,
        )


def _coarse_store(run: Run, checkpoint: str, dtype: str, n_rows: int) -> Datastore:
    """The pool's store in another dtype beside it, made where it is not there yet."""
    store = run.directory.pool_store(checkpoint)
    with run.reporter.task(f"{checkpoint}, pool as {dtype}", n_rows, "rows") as advance:
        return convert(store, store.with_name(f"{store.name}.{dtype}"), dtype=dtype, progress=advance)


def _by_scores(run: Run, checkpoints: list[Path], name: str, arguments: dict[str, Any]) -> Selection:
    """From the scores that were kept instead of rows."""
    number = list(selection_targets(run)).index(name)
    columns = [score_columns(run, c.name)[name] for c in checkpoints]
    parts = []
    for c, column in zip(checkpoints, columns, strict=True):
        with ScoreFiles(run.directory.pool_scores(c.name), len(run.pool)) as files:
            parts.append(files.read(number, len(column.columns.names)))
    # When rows were scored, or refused with scores.
    settled = ("reduce", "deduplicate", "target_dtype")
    wishes = {key: value for key, value in arguments.items() if key not in settled}
    return choose_collected(columns, parts, run.pool.ids, _weights(checkpoints), **wishes)


def _by_text(run: Run, targets: list[str], subtasks: list[str], arguments: dict[str, Any]) -> Selection:
    """By the words of candidates and targets."""
    wishes = {key: value for key, value in arguments.items() if key not in ("deduplicate", "target_dtype")}
    result = select_by_text(
        [_text(sample) for sample in run.pool.samples],
        [_text(sample) for t in targets for sample in run.targets[t].samples],
        subtasks=subtasks,
        ids=run.pool.ids,
        tokens=[sample.label_tokens for sample in run.pool.encoded],
        **wishes,
    )
    result.record["settings"]["selector"] = "bm25"
    return result


def _text(sample: Sample) -> str:
    return "\n".join(message["content"] for message in sample.messages)


def _weights(checkpoints: list[Path]) -> list[float]:
    """Mean learning rates; embeddings are of one model that nothing was trained for."""
    return [1.0 if c.name == CHECKPOINT else checkpoint_record(c)["learning_rate"] for c in checkpoints]


def _pool_digest(run: Run, checkpoint: Path) -> str:
    """What the selection depends on of the pool's rows, or of the scores that were kept instead."""
    if run.config.scores_alone:
        return digest_of(read_json(step_of(run.directory.pool_scores(checkpoint.name)) / "step.json"))
    return Datastore.open(run.directory.pool_store(checkpoint.name)).spec.digest


def _targets(run: Run, checkpoints: list[Path], targets: list[str]) -> tuple[list[list[Datastore]], list[str]]:
    """Targets at every checkpoint, and the subtask of every target row."""
    stores = [[Datastore.open(run.directory.target_store(c.name, t)) for t in targets] for c in checkpoints]
    return stores, [subtask for t in targets for subtask in subtask_names(t, run.targets[t])]


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
