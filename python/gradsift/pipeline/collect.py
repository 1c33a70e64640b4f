"""Steps 2 and 3: sketches of the pool and of the targets at every checkpoint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.collector import GradientCollector, load_moments
from gradsift.data import EncodedSet, batches_by_length, collate
from gradsift.datastore import Datastore
from gradsift.pipeline.config import gamma_of
from gradsift.pipeline.models import device, load_adapter, load_base
from gradsift.pipeline.progress import Advance, Reporter
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import write_json
from gradsift.pipeline.samples import Part
from gradsift.pipeline.sharing import claimed_units
from gradsift.pipeline.training import checkpoint_record
from gradsift.pipeline.warmup import warmup
from gradsift.sketches import Sketches
from gradsift.specs import StoreSpec


def collect(run: Run) -> list[Path]:
    """Fills the stores of every checkpoint; returns the checkpoints. What is there already is kept."""
    checkpoints = warmup(run)
    for folder in checkpoints:
        _collect_checkpoint(run, folder)
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


def _collect_checkpoint(run: Run, folder: Path) -> None:
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
    for title, path, part, kind, dtype in todo:
        settings = _settings(run, folder, part, kind, dtype)
        run.directory.begin(step_of(path), settings)
        gamma = gamma_of(kind, moments.betas, moments.eps, moments.step)
        collector = GradientCollector(
            model, run.config.collect.projection(), gamma=gamma, moments=moments if gamma.needs_moments else None
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
        fill_store(
            path,
            spec,
            collector,
            part.ids,
            part.encoded,
            pad_id=run.tokenizer.pad_token_id,
            dtype=dtype,
            max_tokens=run.config.collect.max_tokens,
            shard_rows=run.config.collect.shard_rows,
            title=f"{folder.name}, {title}",
            reporter=run.reporter,
        )
        write_json(step_of(path) / "collector.json", collector.report())
        run.directory.finish(step_of(path), settings)


def fill_store(
    path: Path,
    spec: StoreSpec,
    collector: GradientCollector,
    ids: list[str],
    encoded: EncodedSet,
    *,
    pad_id: int,
    dtype: str,
    max_tokens: int,
    shard_rows: int,
    title: str,
    reporter: Reporter,
) -> None:
    """Collects the rows that the store at `path` lacks, a shard at a time, together with other processes that do so.

    Shards begin at multiples of `shard_rows`, so that a resumed run makes the shards that an uninterrupted one makes;
    samples are sorted by length inside a shard only. Returns when no row is missing.
    """
    with Datastore.create(path, spec=spec, dtype=dtype, resume=True, shard_rows=shard_rows) as store:
        missing = store.missing(len(encoded))
        there = len(encoded) - sum(len(gap) for gap in missing)
        with (
            reporter.task(title, len(encoded), "samples", done=there) as advance,
            closing(claimed_units(store, len(encoded), shard_rows, advance, reporter)) as units,
        ):
            for unit in units:
                sketches = _collect_unit(collector, encoded, unit, pad_id, max_tokens, advance)
                store.append(ids[unit.start : unit.stop], sketches, first=unit.start)
                store.commit()


def _collect_unit(
    collector: GradientCollector, encoded: EncodedSet, unit: range, pad_id: int, max_tokens: int, advance: Advance
) -> Sketches:
    samples = [encoded[i] for i in unit]
    parts: list[Sketches] = []
    order: list[np.ndarray] = []
    for batch in batches_by_length([len(s.input_ids) for s in samples], max_tokens):
        tensors = collate([samples[i] for i in batch], pad_id=pad_id)
        parts.append(collector.collect({name: tensor.to(device()) for name, tensor in tensors.items()}))
        order.append(np.asarray(batch, dtype=np.int64))
        advance(len(batch))
    back = np.argsort(np.concatenate(order), kind="stable")
    return Sketches.concatenate(parts)[back]
