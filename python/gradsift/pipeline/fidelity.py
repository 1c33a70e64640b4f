"""One-step fidelity: the scores of a few samples beside what one real AdamW step on each does to the target loss.

docs/quality.md says what is measured and what good looks like.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.collector import Moments, load_moments
from gradsift.data import EncodedSample
from gradsift.datastore import Datastore
from gradsift.errors import ConfigError, GradsiftError
from gradsift.files import full_disk_explained, make_folder, sync_path, write_text
from gradsift.ops import project_rows
from gradsift.ops.gamma import apply_gamma
from gradsift.pipeline.config import gamma_of
from gradsift.pipeline.fidelity_table import markdown, summarise
from gradsift.pipeline.models import load_adapter, load_base
from gradsift.pipeline.one_step import Gradients, OneStep, mean_losses
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import differences, read_json, write_json
from gradsift.pipeline.samples import subtask_names
from gradsift.pipeline.training import checkpoint_record
from gradsift.pipeline.warmup import warmup
from gradsift.selection import select
from gradsift.specs import Gamma, ProjectionSpec

GAMMAS = ("adam", "less", "affine", "second_moment", "sgd", "sign")
_JITTERS = 8


def fidelity(
    run: Run, *, samples: int = 128, seed: int = 0, checkpoint: str | None = None, step_scale: float = 1.0
) -> dict[str, Any]:
    """Spearman of scores and of the true decrease of the target loss, for every Γ; steps that are known are not redone.

    From a warm-up checkpoint with its Adam state, in float32: for each sample one step of torch's AdamW on it alone
    (the checkpoint's mean learning rate, no weight decay), the mean loss of every subtask's target examples after it,
    and the parameters put back to the bit.

    Parameters
    ----------
    samples : int
        Of the pool's samples with labels, drawn by `seed`; more samples contain those of fewer.
    checkpoint : str, optional
        Name of the warm-up's checkpoint; the last if None.
    step_scale : float
        The step's learning rate is so many times the checkpoint's.

    Returns
    -------
    dict
        What ``fidelity/CHECKPOINT/fidelity.json`` of the run directory holds.

    Raises
    ------
    ConfigError
        Too few samples in the pool, or no such checkpoint.
    GradsiftError
        A gradient or a loss is not finite.
    """
    folder = _checkpoint(warmup(run), checkpoint)
    usable = np.array([i for i, sample in enumerate(run.pool.encoded) if sample.label_tokens > 0])
    if not 4 <= samples <= len(usable):
        raise ConfigError(f"samples: expected 4 to {len(usable)}, the samples with label tokens, got {samples}")
    positions = [int(i) for i in usable[run.generator("fidelity", seed).permutation(len(usable))[:samples]]]
    rate = checkpoint_record(folder)["learning_rate"] * step_scale
    directory = run.directory.fidelity(folder.name + ("" if step_scale == 1.0 else f"-x{step_scale:g}"))
    settings = {
        "model": {**run.model_settings, "dtype": "float32"},
        "checkpoint": checkpoint_record(folder),
        "learning_rate": rate,
        "weight_decay": 0.0,
        "projection": run.config.collect.projection().to_dict(),
        "pool": run.pool.encoded.digest,
        "targets": {name: part.encoded.digest for name, part in run.targets.items()},
    }
    _begin(run, directory, settings)
    records = _read_records(directory / "records.jsonl")
    todo = [i for i in positions if i not in records]
    title = f"fidelity, {folder.name}"
    if todo or not (directory / "targets.json").is_file():
        bench = _Bench.at(run, folder, rate)
        if not (directory / "targets.json").is_file():
            write_json(directory / "targets.json", bench.noise(run.generator("fidelity noise", seed)))
        with run.reporter.task(title, len(positions), "samples", done=len(positions) - len(todo)) as advance:
            for position in todo:
                record = bench.measure(run.pool.encoded[position])
                records[position] = record
                _append(directory / "records.jsonl", {"position": position, **record})
                advance(1)
    record = {
        "settings": {**settings, "samples": samples, "seed": seed, "step_scale": step_scale},
        **summarise(
            [records[i] for i in positions],
            read_json(directory / "targets.json"),
            rate=rate,
            stored=_stored(run, folder, positions),
            gamma=run.config.collect.gamma,
        ),
    }
    write_json(directory / "fidelity.json", record)
    write_text(directory / "fidelity.md", markdown(record))
    return record


def _begin(run: Run, directory: Path, settings: dict[str, Any]) -> None:
    """Keeps what was measured under the same settings, and nothing that was measured under others."""
    path = directory / "settings.json"
    changed = differences(read_json(path), settings) if path.is_file() else []
    for line in changed:
        run.reporter.say(f"fidelity, {directory.name}: measured again, since {line}")
    if changed:
        # The old settings stay until then: a kill in between would leave records of theirs to pass for the new ones'.
        for name in ("targets.json", "records.jsonl"):
            (directory / name).unlink(missing_ok=True)
    write_json(path, settings)


def _checkpoint(found: Sequence[Path], wanted: str | None) -> Path:
    for folder in found:
        if folder.name == wanted:
            return folder
    if wanted is not None:
        raise ConfigError(f"checkpoint: expected one of {[f.name for f in found]}, got {wanted!r}")
    return found[-1]


@dataclass(frozen=True)
class _Bench:
    """What every sample is measured on: the model with its step, the targets and their directions.

    `exact` and `sketched` hold, for each subtask, the mean of the unit target gradients and the mean target gradient:
    (2S, D) and (2S, P).
    """

    model: Any
    step: OneStep
    moments: Moments
    spec: ProjectionSpec
    subtasks: list[str]
    groups: list[list[int]]
    targets: list[EncodedSample]
    pad_id: int
    exact: np.ndarray
    sketched: np.ndarray
    before: np.ndarray

    @classmethod
    def at(cls, run: Run, folder: Path, rate: float) -> _Bench:
        config = run.config.model.model_copy(update={"dtype": "float32"})
        model = load_adapter(load_base(config), folder).eval()
        moments = load_moments(folder, model)
        step = OneStep(model, moments, rate)
        names = [subtask for name, part in run.targets.items() for subtask in subtask_names(name, part)]
        targets = [sample for part in run.targets.values() for sample in part.encoded]
        subtasks = list(dict.fromkeys(names))
        groups = [[i for i, name in enumerate(names) if name == subtask] for subtask in subtasks]
        spec, pad_id = run.config.collect.projection(), run.tokenizer.pad_token_id
        entries = sum(int(moments[name][0].numel()) for name in step.names)
        exact = np.zeros((2 * len(subtasks), entries), np.float32)
        sketched = np.zeros((2 * len(subtasks), spec.proj_dim))
        with run.reporter.task(f"fidelity, {folder.name}: targets", len(targets), "gradients") as advance:
            for s, rows in enumerate(groups):
                for i in rows:
                    _, gradients = step.gradients(targets[i], pad_id)
                    for directions, row in (
                        (exact, np.concatenate([g.ravel() for g in gradients])),
                        (sketched, _sketch(gradients, step.names, spec, Gamma.sgd(), None)),
                    ):
                        norm = float(np.linalg.norm(row.astype(np.float64)))
                        if not 0.0 < norm < np.inf:
                            raise GradsiftError(
                                f"target {targets[i].id!r}: expected a finite gradient other than zero, got one of "
                                f"norm {norm}; leave this target out"
                            )
                        directions[2 * s] += row / (norm * len(rows))
                        directions[2 * s + 1] += row / len(rows)
                    advance(1)
        before = mean_losses(model, groups, targets, pad_id)
        return cls(model, step, moments, spec, subtasks, groups, targets, pad_id, exact, sketched, before)

    def noise(self, rng: np.random.Generator) -> dict[str, Any]:
        """The targets' loss, by how much it differs when nothing moves, and when roundings alone move it."""
        repeats = [self._after() - self.before for _ in range(2)]
        jitters = []
        for _ in range(_JITTERS):
            with self.step.jittered(rng):
                jitters.append(self._after() - self.before)
        return {
            subtask: {
                "examples": len(self.groups[s]),
                "loss": float(self.before[s]),
                "identity": float(max(abs(r[s]) for r in repeats)),
                "rounding": float(np.sqrt(np.mean([j[s] ** 2 for j in jitters]))),
            }
            for s, subtask in enumerate(self.subtasks)
        }

    def measure(self, sample: EncodedSample) -> dict[str, Any]:
        """Scores of one sample by every Γ, exact and sketched, and the change of every subtask's loss."""
        loss, gradients = self.step.gradients(sample, self.pad_id)
        with self.step.stepped(gradients):
            change = self._after() - self.before
        if not (np.isfinite(change).all() and np.isfinite(loss)):
            raise GradsiftError(
                f"sample {sample.id!r}: expected finite losses, got {loss} on it and {change.tolist()} more on the "
                "targets after a step on it; leave it out of the pool, or lower step_scale"
            )
        scores: dict[str, Any] = {}
        for kind in GAMMAS:
            gamma = gamma_of(kind, self.moments.betas, self.moments.eps, self.moments.step)
            moments = self.moments if gamma.needs_moments else None
            exact, norm = self._exact(gradients, gamma)
            row = _sketch(gradients, self.step.names, self.spec, gamma, moments)
            sketched = self.sketched @ row
            row_norm = float(np.linalg.norm(row))
            scores[kind] = {
                "exact": {"cosine": _over(exact[0::2], norm), "inner": exact[1::2].tolist()},
                "sketched": {"cosine": _over(sketched[0::2], row_norm), "inner": sketched[1::2].tolist()},
                "norm": norm,
            }
        return {
            "id": sample.id,
            "loss": loss,
            "label_tokens": sample.label_tokens,
            "gradient_norm": float(np.sqrt(sum(float(np.vdot(g, g)) for g in gradients))),
            "change": dict(zip(self.subtasks, change.tolist(), strict=True)),
            "scores": scores,
        }

    def _after(self) -> np.ndarray:
        return mean_losses(self.model, self.groups, self.targets, self.pad_id)

    def _exact(self, gradients: Gradients, gamma: Gamma) -> tuple[np.ndarray, float]:
        """Inner products of Γ(g) with the targets' directions, (2S,), and the norm of Γ(g)."""
        products, square, first = np.zeros(len(self.exact)), 0.0, 0
        for name, g in zip(self.step.names, gradients, strict=True):
            m, v = (x.numpy().astype(np.float64) for x in self.moments[name])
            direction = apply_gamma(gamma, g.astype(np.float64), m, v).ravel()
            products += self.exact[:, first : first + direction.size] @ direction.astype(np.float32)
            square += float(direction @ direction)
            first += direction.size
        return products, float(np.sqrt(square))


def _sketch(
    gradients: Gradients, names: Sequence[str], spec: ProjectionSpec, gamma: Gamma, moments: Moments | None
) -> np.ndarray:
    """S·Γ(g), (P,) float64: the row of a datastore, not rounded to be stored."""
    out = np.zeros((1, spec.proj_dim), np.float32)
    for name, g in zip(names, gradients, strict=True):
        pair = None if moments is None else moments[name]
        project_rows(
            g[None],
            spec,
            param=name,
            gamma=gamma,
            moments=None if pair is None else (pair[0].float().numpy(), pair[1].float().numpy()),
            out=out,
            accumulate=True,
        )
    row: np.ndarray = out[0].astype(np.float64)
    return row


def _over(products: np.ndarray, norm: float) -> list[float]:
    """Cosines; 0 for a direction of zeros."""
    cosines: list[float] = (products / norm if norm > 0.0 else np.zeros_like(products)).tolist()
    return cosines


def _stored(run: Run, folder: Path, positions: Sequence[int]) -> dict[str, list[float]] | None:
    """Scores at this checkpoint as the datastores give them, by subtask; None where those hold no rows (yet)."""
    paths = [run.directory.pool_store(folder.name)]
    paths += [run.directory.target_store(folder.name, name) for name in run.targets]
    if not all((path / "spec.json").is_file() for path in paths):
        return None
    pool, *targets = [Datastore.open(path) for path in paths]
    if not all(store.complete for store in (pool, *targets)):
        return None
    subtasks = [subtask for name, part in run.targets.items() for subtask in subtask_names(name, part)]
    found = select([pool], [targets], subtasks=subtasks, count=1, keep_scores=True)
    assert found.subtask_scores is not None
    scores = found.subtask_scores[positions]
    if not np.isfinite(scores).all():
        bad = run.pool.ids[positions[int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])]]
        raise GradsiftError(f"{paths[0]}: expected a finite row of sample {bad!r}, got one that was excluded")
    return {str(name): scores[:, s].tolist() for s, name in enumerate(found.columns)}


def _append(path: Path, record: dict[str, Any]) -> None:
    with full_disk_explained(path.parent):
        make_folder(path.parent)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _read_records(path: Path) -> dict[int, dict[str, Any]]:
    """Records by position; a last line that a kill cut short is removed from the file."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
        sync_path(path)
    try:
        records = [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise GradsiftError(f"{path}: expected records that this program wrote, got: {error}; remove it") from error
    return {record.pop("position"): record for record in records}
