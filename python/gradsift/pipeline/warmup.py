"""Step 1: LoRA on a random part of the pool, a checkpoint with optimizer state after every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradsift.errors import DataError
from gradsift.pipeline.models import add_lora, load_base
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import write_json
from gradsift.pipeline.training import finished_checkpoints, fit


def settings(run: Run) -> dict[str, Any]:
    """What decides the checkpoints."""
    return {
        "model": run.model_settings,
        "lora": run.config.lora.model_dump(),
        "warmup": run.config.warmup.model_dump(),
        "seed": run.config.seed,
        "pool": run.pool.encoded.digest,
    }


def warmup(run: Run) -> list[Path]:
    """The checkpoints of the warm-up, trained if they are not there yet."""
    run.read_everything()
    directory, wanted = run.directory.warmup, settings(run)
    with run.directory.turn(run.reporter.say):  # of several processes that collect, one trains and the others wait
        done = run.directory.is_done(directory, wanted)
        run.write_down()
        if not done:
            run.directory.begin(directory, wanted)
            _train(run, directory)
            run.directory.finish(directory, wanted)
    checkpoints = finished_checkpoints(directory)
    if len(checkpoints) != run.config.warmup.epochs:
        raise DataError(
            f"{directory}: expected {run.config.warmup.epochs} checkpoints, got {[c.name for c in checkpoints]}; "
            "remove that directory to do the warm-up again"
        )
    return checkpoints


def _train(run: Run, directory: Path) -> None:
    config, pool = run.config, run.pool
    usable = [i for i, sample in enumerate(pool.encoded) if sample.label_tokens > 0]
    count = min(len(usable), max(1, round(config.warmup.fraction * len(pool))))
    if not usable:
        raise DataError(f"pool: expected samples with label tokens, got {len(pool)} without; is max_length too small?")
    chosen = sorted(run.generator("warmup", config.seed).choice(len(usable), size=count, replace=False))
    positions = [usable[i] for i in chosen]
    write_json(directory / "samples.json", [pool.samples[i].id for i in positions])
    run.reporter.say(f"warm-up: LoRA r={config.lora.r} on {count} random samples, {config.warmup.epochs} epochs")
    model = add_lora(load_base(config.model), config.lora, config.seed)
    fit(
        model,
        [pool.encoded[i] for i in positions],
        config.warmup,
        pad_id=run.tokenizer.pad_token_id,
        seed=config.seed,
        directory=directory,
        keep_epochs=True,
        title="warm-up",
        reporter=run.reporter,
    )
