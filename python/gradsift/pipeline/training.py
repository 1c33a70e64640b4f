"""Training an adapter with the transformers Trainer: the warm-up's and the final one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradsift.data import EncodedSample, collate
from gradsift.files import full_disk_explained, sync_folder
from gradsift.naming import canonical_name
from gradsift.pipeline.config import TrainingConfig
from gradsift.pipeline.models import weights_digest
from gradsift.pipeline.progress import Advance, Reporter
from gradsift.pipeline.rundir import read_json, write_json

CHECKPOINT_RECORD = "checkpoint.json"
OPTIMIZER_NAMES = "gradsift_optimizer_names.json"


def finished_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints below `directory` that were written to their end, by step."""
    found = [p.parent for p in directory.glob(f"checkpoint-*/{CHECKPOINT_RECORD}")]
    return sorted(found, key=lambda p: int(p.name.rsplit("-", 1)[1]))


def fit(
    model: Any,
    samples: Sequence[EncodedSample],
    settings: TrainingConfig,
    *,
    pad_id: int,
    seed: int,
    directory: Path,
    keep_epochs: bool,
    title: str,
    reporter: Reporter,
) -> None:
    """Trains the trainable parameters of `model` on `samples`.

    With `keep_epochs`, every epoch leaves ``checkpoint-STEP`` in `directory`: adapter, optimizer state, the names of
    the parameters in the optimizer's order and, last, `CHECKPOINT_RECORD`; a second call goes on after the last one
    that is complete. Samples without label tokens are left out, since their loss is not defined.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    usable = [s for s in samples if s.label_tokens > 0]
    if not usable:
        raise ValueError(f"samples: expected at least one with label tokens, got {len(samples)} without")
    steps_an_epoch = math.ceil(len(usable) / settings.batch_size)
    total = steps_an_epoch * settings.epochs
    last = _drop_unfinished(directory) if keep_epochs else None
    directory.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        # Rounded down: one step of warm-up is a step of rate 0, which a short training cannot spare.
        warmup_steps=math.floor(total * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        optim="adamw_torch",
        save_strategy="epoch" if keep_epochs else "no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=seed,
        data_seed=seed,
    )
    arguments._n_gpu = 1  # else the Trainer spreads a batch over all it sees, and a step is another number of samples
    done = 0 if last is None else int(last.name.rsplit("-", 1)[1])
    with reporter.task(title, total, "steps", done=done) as advance, full_disk_explained(directory):
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=usable,
            data_collator=lambda batch: collate(batch, pad_id=pad_id),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_recorder(advance, directory, keep_epochs))
        if last is not None:
            reporter.say(f"{title}: goes on after {last.name}")
        trainer.train(resume_from_checkpoint=None if last is None else str(last))


def _drop_unfinished(directory: Path) -> Path | None:
    """Removes checkpoints that an interrupted run left half-written; the last whole one, if any."""
    whole = finished_checkpoints(directory)
    for path in directory.glob("checkpoint-*"):
        if path not in whole:
            shutil.rmtree(path)
    return whole[-1] if whole else None


def _recorder(advance: Advance, directory: Path, keep_epochs: bool) -> Any:
    """A Trainer callback that tells of progress and completes each checkpoint with what selection needs."""
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.rates.append(float(kwargs["optimizer"].param_groups[0]["lr"]))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not keep_epochs:
                return
            folder = directory / f"checkpoint-{state.global_step}"
            names = {id(p): canonical_name(n) for n, p in kwargs["model"].named_parameters()}
            ordered = [names[id(p)] for g in kwargs["optimizer"].param_groups for p in g["params"]]
            write_json(folder / OPTIMIZER_NAMES, ordered)
            # A pickle of the Trainer's arguments, which nobody reads: what it says stands in config.json.
            (folder / "training_args.bin").unlink(missing_ok=True)
            sync_folder(folder)
            write_json(
                folder / CHECKPOINT_RECORD,
                {
                    "name": folder.name,
                    "step": state.global_step,
                    "epoch": round(state.epoch),
                    "learning_rate": sum(self.rates) / len(self.rates),
                    "weights_digest": weights_digest(kwargs["model"]),
                },
            )
            self.rates.clear()

    return Recorder()


def checkpoint_record(folder: Path) -> dict[str, Any]:
    """What the warm-up noted of a checkpoint: name, step, epoch, mean learning rate of the epoch, weights digest."""
    record: dict[str, Any] = read_json(folder / CHECKPOINT_RECORD)
    return record
