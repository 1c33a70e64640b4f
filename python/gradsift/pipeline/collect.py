"""Steps 2 and 3: sketches of the pool and of the targets at every checkpoint."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gradsift.collector import Clock, GradientCollector, load_moments
from gradsift.datastore import Datastore
from gradsift.pipeline.config import gamma_of
from gradsift.pipeline.filling import BatchSizer, RowKeeper, fill_store, plan_batches
from gradsift.pipeline.models import load_adapter, load_base
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import write_json
from gradsift.pipeline.samples import Part
from gradsift.pipeline.scores import ScoreFiles, score_columns, score_settings
from gradsift.pipeline.training import checkpoint_record
from gradsift.pipeline.warmup import warmup
from gradsift.specs import StoreSpec


def collect(run: Run, *, profile: bool = False) -> list[Path]:
    """Fills the stores of every checkpoint; returns the checkpoints. What is there already is kept.

    With `profile`, where the time goes is said after each store and written beside it.
    """
    checkpoints = warmup(run)
    for folder in checkpoints:
        _collect_checkpoint(run, folder, profile)
    return checkpoints


@dataclass(frozen=True)
class _Work:
    """One set of samples at one checkpoint: where its rows go, or the scores that are kept instead."""

    title: str
    path: Path
    part: Part
    gamma: str
    dtype: str
    scores_alone: bool = False

    def settings(self, run: Run, folder: Path) -> dict[str, Any]:
        config = run.config
        record = {
            "model": run.model_settings,
            "lora": config.lora.model_dump(),
            "checkpoint": checkpoint_record(folder),
            "projection": config.collect.projection().to_dict(),
            "gamma": self.gamma,
            "dtype": self.dtype,
            "data": self.part.encoded.digest,
        }
        return record | ({"scores": score_settings(run)} if self.scores_alone else {})

    def is_done(self, run: Run, folder: Path) -> bool:
        """Whether it was finished and still is whole: a shard that was deleted is collected again."""
        if not run.directory.is_done(step_of(self.path), self.settings(run, folder)):
            return False
        if self.scores_alone:
            with ScoreFiles(self.path, len(self.part)) as files:
                return not files.missing()
        return (self.path / "spec.json").is_file() and Datastore.open(self.path, on_error="skip").complete

    def keeper(self, run: Run, folder: Path, spec: StoreSpec) -> AbstractContextManager[RowKeeper]:
        if self.scores_alone:
            return ScoreFiles(self.path, len(self.part), score_columns(run, folder.name))
        shard_rows = run.config.collect.shard_rows
        return Datastore.create(self.path, spec=spec, dtype=self.dtype, resume=True, shard_rows=shard_rows)


def step_of(store: Path) -> Path:
    """Where the step of a store is noted: beside it, since a datastore's directory holds nothing but the datastore."""
    return store.with_name(f"{store.name}.step")


def _work(run: Run, folder: Path) -> list[_Work]:
    """All there is to collect at a checkpoint, in the order in which it can be."""
    wanted = run.config.collect
    targets = [
        _Work(f"target {name}", run.directory.target_store(folder.name, name), part, "sgd", wanted.target_dtype)
        for name, part in run.targets.items()
    ]
    if wanted.keep == "scores":
        scores = run.directory.pool_scores(folder.name)
        return [*targets, _Work("pool", scores, run.pool, wanted.gamma, wanted.dtype, scores_alone=True)]
    return [_Work("pool", run.directory.pool_store(folder.name), run.pool, wanted.gamma, wanted.dtype), *targets]


def _collect_checkpoint(run: Run, folder: Path, profile: bool) -> None:
    import torch

    todo = [work for work in _work(run, folder) if not work.is_done(run, folder)]
    if not todo:
        run.reporter.say(f"{folder.name}: all sketches are there")
        return
    model = load_adapter(load_base(run.config.model), folder)
    moments = load_moments(folder, model)
    limit = run.config.collect.memory_limit_gib
    sizer = BatchSizer(None if limit is None else int(limit * 2**30))
    for position, work in enumerate(todo):
        part, step = work.part, step_of(work.path)
        settings = work.settings(run, folder)
        run.directory.begin(step, settings)
        gamma = gamma_of(work.gamma, moments.betas, moments.eps, moments.step)
        clock = Clock(enabled=profile, synchronize=torch.cuda.synchronize if torch.cuda.is_available() else None)
        collector = GradientCollector(
            model,
            run.config.collect.projection(),
            gamma=gamma,
            moments=moments if gamma.needs_moments else None,
            profile=clock,
        )
        if position == 0:
            precision = collector.precision
            run.reporter.say(
                f"{folder.name}: parameters in {precision['parameters']}; float32 products "
                f'"{precision["float32_matmul"]}" ({precision["why"]})'
            )
        record = checkpoint_record(folder)
        spec = StoreSpec(
            projection=run.config.collect.projection(),
            gamma=gamma,
            parameters=tuple(collector.parameters),
            checkpoint={**record, "moments_digest": moments.digest},
            data={
                "rows": len(part),
                "digest": part.encoded.digest,
                "template": part.encoded.template,
                "max_length": run.config.model.max_length,
            },
        )
        title = f"{folder.name}, {work.title}"
        with clock.part("other"):
            plan = plan_batches(
                step / "batches.json",
                collector,
                part.encoded,
                run.config.collect.max_tokens,
                sizer,
                pad_id=run.tokenizer.pad_token_id,
                title=title,
                reporter=run.reporter,
            )
            fill_store(
                partial(work.keeper, run, folder, spec),
                collector,
                part.ids,
                part.encoded,
                plan,
                pad_id=run.tokenizer.pad_token_id,
                shard_rows=run.config.collect.shard_rows,
                title=title,
                reporter=run.reporter,
                clock=clock,
            )
        if profile:
            write_json(step / "profile.json", clock.report())
            run.reporter.say(f"{title}: where the time went\n{clock.table()}")
        write_json(step / "collector.json", collector.report())
        run.directory.finish(step, settings)
