"""Step 6: LoRA from the base model on each selection, and on random choices of the same size."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradsift.files import full_disk_explained, sync_folder
from gradsift.pipeline.models import add_lora, load_base
from gradsift.pipeline.run import Run
from gradsift.pipeline.samples import source_name
from gradsift.pipeline.select import select_samples, selection_targets
from gradsift.pipeline.training import fit
from gradsift.specs import digest_of


@dataclass(frozen=True)
class Training:
    """One adapter to train: what on, with which seed, and for which targets it counts."""

    name: str
    seed: int
    positions: list[int]
    targets: list[str]
    directory: Path


def selected_positions(run: Run, name: str) -> list[int]:
    """Positions in the pool of selection `name`, best first."""
    position = {sample_id: i for i, sample_id in enumerate(run.pool.ids)}
    path = run.directory.selection(name) / "selection.json"
    return [position[sample_id] for sample_id in json.loads(path.read_text(encoding="utf-8"))["ids"]]


def trainings(run: Run) -> Iterator[Training]:
    """Every training of the run: each selection, then random choices, once a seed."""
    size = 0
    for name, targets in selection_targets(run).items():
        positions = selected_positions(run, name)
        size = max(size, len(positions))
        for seed in run.config.train.seeds:
            yield Training(name, seed, positions, targets, run.directory.training(name, seed))
    if run.config.train.random:
        usable = [i for i, sample in enumerate(run.pool.encoded) if sample.label_tokens > 0]
        for seed in run.config.train.seeds:
            chosen = run.generator("random", seed).choice(len(usable), size=size, replace=False)
            positions = [usable[i] for i in sorted(chosen)]
            yield Training("random", seed, positions, list(run.config.targets), run.directory.training("random", seed))


def settings(run: Run, training: Training) -> dict[str, Any]:
    """What decides a trained adapter."""
    return {
        "model": run.model_settings,
        "lora": run.config.lora.model_dump(),
        "train": run.config.train.model_dump(exclude={"seeds", "random"}),
        "seed": training.seed,
        "pool": run.pool.encoded.digest,
        "samples": digest_of([run.pool.ids[i] for i in training.positions]),
    }


def train(run: Run) -> list[Training]:
    """Trains what is not trained yet; an adapter whose selection or settings changed is trained again."""
    select_samples(run)
    everything = list(trainings(run))
    for training in everything:
        _train_one(run, training)
    return everything


def _train_one(run: Run, training: Training) -> None:
    directory, wanted = training.directory, settings(run, training)
    title = f"train on {training.name}, seed {training.seed}"
    changed = run.directory.was_done_otherwise(directory, wanted)
    if not changed and (directory / "step.json").is_file():
        run.reporter.say(f"{title}: there already")
        return
    for line in changed:
        run.reporter.say(f"{title}: again, since {line}")
    model = add_lora(load_base(run.config.model), run.config.lora, training.seed)
    fit(
        model,
        [run.pool.encoded[i] for i in training.positions],
        run.config.train,
        pad_id=run.tokenizer.pad_token_id,
        seed=training.seed,
        directory=directory,
        keep_epochs=False,
        title=title,
        reporter=run.reporter,
    )
    (directory / "step.json").unlink(missing_ok=True)
    with full_disk_explained(directory):
        model.save_pretrained(str(directory))
        sync_folder(directory)
    run.directory.finish(directory, wanted)


def make_up(run: Run, positions: list[int]) -> dict[str, int]:
    """How many samples come from each source, most first."""
    return dict(Counter(source_name(run.pool.samples[i]) for i in positions).most_common())
