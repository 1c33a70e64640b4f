"""Steps 2 and 3: sketches of the pool and of the targets at every checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradsift.collector import Clock, GradientCollector, load_moments
from gradsift.datastore import Datastore
from gradsift.pipeline.config import gamma_of
from gradsift.pipeline.filling import BatchSizer, fill_store, plan_batches
from gradsift.pipeline.models import load_adapter, load_base
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import write_json
from gradsift.pipeline.samples import Part
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


def _settings(run: Run, folder: Path, part: Part, gamma: str, dtype: str) -> dict[str, Any]:
    config = run.config
    return {
        "model": run.model_settings,
        "lora": config.lora.model_dump(),
        "checkpoint": checkpoint_record(folder),
        "projection": config.collect.projection().to_dict(),
        "gamma": gamma,
        "dtype": dtype,
        "data": part.encoded.digest,
    }


def step_of(store: Path) -> Path:
    """Where the step of a store is noted: beside it, since a datastore's directory holds nothing but the datastore."""
    return store.with_name(f"{store.name}.step")


def _is_done(run: Run, folder: Path, path: Path, part: Part, gamma: str, dtype: str) -> bool:
    """Whether the store at `path` was finished and still is whole: a shard that was deleted is collected again."""
    done = run.directory.is_done(step_of(path), _settings(run, folder, part, gamma, dtype))
    return done and (path / "spec.json").is_file() and Datastore.open(path, on_error="skip").complete


def _collect_checkpoint(run: Run, folder: Path, profile: bool) -> None:
    import torch

    wanted = run.config.collect
    work: list[tuple[str, Path, Part, str, str]] = [
        ("pool", run.directory.pool_store(folder.name), run.pool, wanted.gamma, wanted.dtype)
    ]
    work += [
        (f"target {name}", run.directory.target_store(folder.name, name), part, "sgd", wanted.target_dtype)
        for name, part in run.targets.items()
    ]
    todo = [item for item in work if not _is_done(run, folder, *item[1:])]
    if not todo:
        run.reporter.say(f"{folder.name}: all sketches are there")
        return
    model = load_adapter(load_base(run.config.model), folder)
    moments = load_moments(folder, model)
    limit = run.config.collect.memory_limit_gib
    sizer = BatchSizer(None if limit is None else int(limit * 2**30))
    for position, (title, path, part, kind, dtype) in enumerate(todo):
        settings = _settings(run, folder, part, kind, dtype)
        run.directory.begin(step_of(path), settings)
        gamma = gamma_of(kind, moments.betas, moments.eps, moments.step)
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
        title = f"{folder.name}, {title}"
        with clock.part("other"):
            plan = plan_batches(
                step_of(path) / "batches.json",
                collector,
                part.encoded,
                run.config.collect.max_tokens,
                sizer,
                pad_id=run.tokenizer.pad_token_id,
                title=title,
                reporter=run.reporter,
            )
            fill_store(
                path,
                spec,
                collector,
                part.ids,
                part.encoded,
                plan,
                pad_id=run.tokenizer.pad_token_id,
                dtype=dtype,
                shard_rows=run.config.collect.shard_rows,
                title=title,
                reporter=run.reporter,
                clock=clock,
            )
        if profile:
            write_json(step_of(path) / "profile.json", clock.report())
            run.reporter.say(f"{title}: where the time went\n{clock.table()}")
        write_json(step_of(path) / "collector.json", collector.report())
        run.directory.finish(step_of(path), settings)
