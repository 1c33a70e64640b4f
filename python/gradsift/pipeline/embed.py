"""RDS+: embeddings of pool and targets by the base model, in datastores that selection reads as it reads sketches.

Ivison et al., *Large-Scale Data Selection for Instruction Tuning*, arXiv 2503.01807: the position-weighted mean of the
last hidden states, ``e = Σ_t w_t h_t`` with ``w_t = t / Σ_t t`` over the tokens t = 1 … T of a sample.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.data import batches_by_length, collate
from gradsift.datastore import Datastore
from gradsift.pipeline.collect import step_of
from gradsift.pipeline.filling import give_back
from gradsift.pipeline.models import device, load_base
from gradsift.pipeline.run import Run
from gradsift.pipeline.samples import Part
from gradsift.pipeline.sharing import claimed_units
from gradsift.sketches import Sketches
from gradsift.specs import ForeignProjection, StoreSpec

CHECKPOINT = "base"  # what the stores' folder is called, beside those of the warm-up's checkpoints
_MAX_TOKENS = 2048
_LEAST_COLUMNS = 256  # of a datastore, which wants a power of two


def embed(run: Run) -> Path:
    """Fills the stores of embeddings; returns the path whose name is their checkpoint's. What is there is kept."""
    run.read_everything()
    parts = {run.directory.pool_store(CHECKPOINT): ("pool", run.pool)}
    parts |= {run.directory.target_store(CHECKPOINT, n): (f"target {n}", part) for n, part in run.targets.items()}
    todo = [path for path, (_, part) in parts.items() if not _is_done(run, path, part)]
    run.write_down()
    if todo:
        model = load_base(run.config.model)
        for path in todo:
            _fill(run, model, path, *parts[path])
    return run.directory.pool_store(CHECKPOINT).parent


def _settings(run: Run, part: Part) -> dict[str, Any]:
    return {"model": run.model_settings, "embedding": "position-weighted mean", "data": part.encoded.digest}


def _is_done(run: Run, path: Path, part: Part) -> bool:
    done = run.directory.is_done(step_of(path), _settings(run, part))
    return done and (path / "spec.json").is_file() and Datastore.open(path, on_error="skip").complete


def _fill(run: Run, model: Any, path: Path, title: str, part: Part) -> None:
    run.directory.begin(step_of(path), _settings(run, part))
    hidden = int(model.config.hidden_size)
    columns = max(_LEAST_COLUMNS, 1 << (hidden - 1).bit_length())
    spec = StoreSpec(
        ForeignProjection(columns, "rds+", f"{hidden} hidden states, then zeros"),
        checkpoint={"name": CHECKPOINT, "model": run.config.model.path, "dtype": run.model_settings["dtype"]},
        data={
            "rows": len(part),
            "digest": part.encoded.digest,
            "template": part.encoded.template,
            "max_length": run.config.model.max_length,
        },
        loss="none",
    )
    title = f"embeddings, {title}"
    writer = Datastore.create(path, spec=spec, dtype="float32", resume=True, shard_rows=run.config.collect.shard_rows)
    with writer as store:
        there = len(part) - sum(map(len, store.missing(len(part))))
        with (
            run.reporter.task(title, len(part), "samples", done=there) as advance,
            closing(claimed_units(store, len(part), run.config.collect.shard_rows, advance, run.reporter)) as units,
        ):
            for unit in units:
                rows = np.zeros((len(unit), columns), np.float32)
                rows[:, :hidden] = embeddings(model, part, unit, run.tokenizer.pad_token_id)
                store.append(part.ids[unit.start : unit.stop], _as_sketches(rows, part, unit), first=unit.start)
                store.commit()
                advance(len(unit))
                give_back()
    run.directory.finish(step_of(path), _settings(run, part))


def embeddings(model: Any, part: Part, unit: range, pad_id: int) -> np.ndarray:
    """(n, H) float32, the embedding of every sample of `unit`; padding has no weight in it and is not attended to."""
    import torch

    encoded = [part.encoded[i] for i in unit]
    out = np.zeros((len(unit), int(model.config.hidden_size)), np.float32)
    for batch in batches_by_length([len(e) for e in encoded], max_tokens=_MAX_TOKENS):
        tensors = collate([encoded[i] for i in batch], pad_id=pad_id)
        tensors = {name: tensor.to(device()) for name, tensor in tensors.items() if name != "labels"}
        with torch.inference_mode():
            states = model.base_model(**tensors, use_cache=False).last_hidden_state.float()
        place = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=torch.float32)
        weights = place * tensors["attention_mask"]
        weights = weights / weights.sum(dim=1, keepdim=True)
        out[np.asarray(batch)] = torch.einsum("bt,bth->bh", weights, states).cpu().numpy()
    return out


def _as_sketches(rows: np.ndarray, part: Part, unit: range) -> Sketches:
    unknown = np.full(len(rows), np.nan)
    tokens = np.array([part.encoded[i].label_tokens for i in unit], np.int64)
    return Sketches(rows, unknown, unknown, unknown.astype(np.float32), tokens)
