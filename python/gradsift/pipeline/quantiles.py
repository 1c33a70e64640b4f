"""Distance quantiles: train on each band of the ranking alone; does the target's loss rise down the ranking?

docs/quality.md says what is measured and what good looks like.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradsift.errors import ConfigError, DataError
from gradsift.files import write_text
from gradsift.pipeline import quantiles_figure
from gradsift.pipeline.collect import collect
from gradsift.pipeline.evaluate import answer_losses
from gradsift.pipeline.models import add_lora, load_base
from gradsift.pipeline.ranks import permutation_p
from gradsift.pipeline.run import Run
from gradsift.pipeline.rundir import differences, read_json, write_json
from gradsift.pipeline.samples import Part
from gradsift.pipeline.select import scored, selection_targets
from gradsift.pipeline.training import fit
from gradsift.selection.measures import spearman
from gradsift.specs import digest_of


@dataclass(frozen=True)
class Arm:
    """One training: its name in files and messages, seed, positions in the pool, and the targets it is measured on."""

    name: str
    seed: int
    positions: list[int]
    tests: dict[str, Part]

    @property
    def title(self) -> str:
        return f"{self.name.replace('/', ', ')}, seed {self.seed}"


def quantiles(
    run: Run, *, bins: int = 10, samples: int | None = None, seeds: Sequence[int] | None = None
) -> dict[str, Any]:
    """Trains on each of `bins` bands of every ranking from the base model, and on random choices; measures the loss.

    Every training has the same number of samples, epochs and steps, those of ``[train]``; the loss is that of answer
    tokens on the targets' test sets. What is trained and measured already is not done again.

    Parameters
    ----------
    bins : int
        2 or more; 10 makes deciles. Band 1 has the highest influence.
    samples : int, optional
        Samples of a band to train on, drawn by the seed; as many as the smallest band has if None.
    seeds : sequence of int, optional
        One training of every band each; ``train.seeds`` if None.

    Returns
    -------
    dict
        What ``quantiles/quantiles.json`` of the run directory holds.

    Raises
    ------
    ConfigError
        No target has a test set.
    DataError
        Bands would have fewer than `samples` samples, or none.
    """
    if bins < 2:
        raise ConfigError(f"bins: expected at least 2, got {bins}")
    seeds = list(run.config.train.seeds if seeds is None else seeds)
    if not run.tests:
        raise ConfigError(
            "targets.NAME.test: expected a test set of one target at least, on which bands are compared, got none"
        )
    influence = _influence(run, collect(run))
    bands = {name: np.array_split(ranking(values), bins) for name, values in influence.items()}
    # One number for all, since every row is in a ranking or in none.
    size = min(_band_size(of_ranking, samples) for of_ranking in bands.values())
    base = _base_losses(run)
    everyone = np.sort(np.concatenate(next(iter(bands.values()))))
    random = [
        _measure(run, Arm("random", seed, _drawn(run, "random 0", everyone, seed, size), run.tests)) for seed in seeds
    ]
    rankings: dict[str, Any] = {}
    for name, of_ranking in bands.items():
        tests = {target: run.tests[target] for target in selection_targets(run)[name] if target in run.tests}
        losses = []
        for number, band in enumerate(of_ranking, start=1):
            drawn = {seed: _drawn(run, f"{name} {number}", band, seed, size) for seed in seeds}
            losses.append([_measure(run, Arm(f"{name}/band-{number}", seed, drawn[seed], tests)) for seed in seeds])
        rankings[name] = {
            "bands": [_describe(run, influence[name], band) for band in of_ranking],
            "targets": {t: _trend([[figures[t] for figures in of_band] for of_band in losses]) for t in tests},
        }
    record = {
        "bins": bins,
        "samples": size,
        "seeds": seeds,
        "epochs": run.config.train.epochs,
        "tests": {target: len(part) for target, part in run.tests.items()},
        "base": base,
        "random": {target: [figures[target] for figures in random] for target in run.tests},
        "rankings": rankings,
    }
    write_json(run.directory.quantiles / "quantiles.json", record)
    write_text(run.directory.quantiles / "quantiles.md", markdown(record))
    if quantiles_figure.can_draw():
        captions = [f"{verdict(record, name, t)}." for name, ranked in rankings.items() for t in ranked["targets"]]
        write_text(run.directory.quantiles / "quantiles.svg", quantiles_figure.draw(record, captions))
    else:
        run.reporter.say('quantiles: no figure, since matplotlib is not installed; pip install "gradsift[report]"')
    return record


def _influence(run: Run, checkpoints: list[Path]) -> dict[str, np.ndarray]:
    """Influence of every row of the pool, for each selection of which a target has a test set."""
    # The best sample by influence, whatever selector the configuration has: what counts here is the influence of all.
    wishes = {**run.config.select.arguments(), "selector": "top", "options": None, "deduplicate": None}
    wishes |= {"fraction": None, "count": 1, "budget": "samples", "lengths": None, "groups": None}
    found = {}
    for name, targets in selection_targets(run).items():
        if not any(target in run.tests for target in targets):
            run.reporter.say(f"quantiles, {name}: left out, since no target of it has a test set")
            continue
        title = f"quantiles, {name}: influence"
        found[name] = scored(run, checkpoints, name, title, **wishes).influence
    return found


def ranking(influence: np.ndarray) -> np.ndarray:
    """Rows of finite influence, the highest first, the smaller row first among equals."""
    eligible = np.flatnonzero(np.isfinite(influence))
    order: np.ndarray = eligible[np.argsort(-influence[eligible].astype(np.float64), kind="stable")]
    return order


def _band_size(bands: Sequence[np.ndarray], samples: int | None) -> int:
    smallest = min(map(len, bands))
    if smallest == 0:
        raise DataError(f"bins: expected at most the {sum(map(len, bands))} samples of the ranking, got {len(bands)}")
    if samples is None:
        samples = smallest
    if not 1 <= samples <= smallest:
        raise DataError(
            f"samples: expected 1 to {smallest}, what the smallest of {len(bands)} bands of the ranking has, got "
            f"{samples}; take fewer bins or samples, or a larger pool"
        )
    return samples


def _drawn(run: Run, purpose: str, band: np.ndarray, seed: int, size: int) -> list[int]:
    """`size` positions of a band, by the seed, in the order of the pool."""
    chosen = run.generator(f"quantiles {purpose}", seed).choice(len(band), size=size, replace=False)
    return sorted(int(i) for i in band[chosen])


def _describe(run: Run, influence: np.ndarray, band: np.ndarray) -> dict[str, Any]:
    """What a band is made of: its range of influence and how long its samples are."""
    encoded = [run.pool.encoded[int(i)] for i in band]
    return {
        "rows": len(band),
        "influence": [float(influence[band[0]]), float(influence[band[-1]])],
        "mean_label_tokens": statistics.fmean(e.label_tokens for e in encoded),
        "mean_tokens": statistics.fmean(len(e) for e in encoded),
    }


def _trend(losses: list[list[float]]) -> dict[str, Any]:
    """ρ of band number and loss: of the mean over seeds, with the share of random orders that do as well; by seed."""
    number = np.arange(1, len(losses) + 1)
    mean = np.array([statistics.fmean(of_band) for of_band in losses])
    return {
        "loss": losses,
        "spearman": spearman(number, mean),
        "permutation_p": permutation_p(number, mean),
        "spearman_by_seed": [spearman(number, np.array(of_seed)) for of_seed in zip(*losses, strict=True)],
    }


def _base_losses(run: Run) -> dict[str, float]:
    path = run.directory.quantiles / "base.json"
    wanted = {"model": run.model_settings, "tests": {t: part.encoded.digest for t, part in run.tests.items()}}
    if (known := _known(run, path, wanted, "base model")) is not None:
        return known
    return _evaluate(run, load_base(run.config.model), path, wanted, run.tests, "base model")


def _measure(run: Run, arm: Arm) -> dict[str, float]:
    """Loss by target after training on the samples of `arm`; kept, and not measured twice."""
    path = run.directory.quantiles / f"{arm.name}-seed-{arm.seed}.json"
    wanted = {
        "model": run.model_settings,
        "lora": run.config.lora.model_dump(),
        "train": run.config.train.model_dump(exclude={"seeds", "random"}),
        "seed": arm.seed,
        "pool": run.pool.encoded.digest,
        "samples": digest_of([run.pool.ids[i] for i in arm.positions]),
        "tests": {target: part.encoded.digest for target, part in arm.tests.items()},
    }
    if (known := _known(run, path, wanted, arm.title)) is not None:
        return known
    model = add_lora(load_base(run.config.model), run.config.lora, arm.seed)
    fit(
        model,
        [run.pool.encoded[i] for i in arm.positions],
        run.config.train,
        pad_id=run.tokenizer.pad_token_id,
        seed=arm.seed,
        directory=run.directory.quantiles / "training",
        keep_epochs=False,
        title=f"quantiles, {arm.title}",
        reporter=run.reporter,
    )
    return _evaluate(run, model.eval(), path, wanted, arm.tests, arm.title)


def _known(run: Run, path: Path, wanted: dict[str, Any], title: str) -> dict[str, float] | None:
    if not path.is_file():
        return None
    record = read_json(path)
    changed = differences(record["settings"], wanted)
    for line in changed:
        run.reporter.say(f"quantiles, {title}: again, since {line}")
    if changed:
        return None
    run.reporter.say(f"quantiles, {title}: there already")
    return dict(record["losses"])


def _evaluate(
    run: Run, model: Any, path: Path, wanted: dict[str, Any], tests: dict[str, Part], title: str
) -> dict[str, float]:
    losses = {}
    with run.reporter.task(f"quantiles, {title}: loss", sum(map(len, tests.values())), "examples") as advance:
        for target, part in tests.items():
            found = answer_losses(model, part.encoded, run.tokenizer.pad_token_id, advance)
            losses[target] = found["token_mean"]
    write_json(path, {"settings": wanted, "losses": losses})
    return losses


def table_rows(record: dict[str, Any], name: str, target: str) -> list[tuple[str, str, str, str]]:
    """(trained on, influence, mean label tokens, loss) of one ranking and target: bands, then random and base."""
    ranked = record["rankings"][name]
    rows = []
    for number, (band, losses) in enumerate(zip(ranked["bands"], ranked["targets"][target]["loss"], strict=True), 1):
        highest, lowest = band["influence"]
        span = f"{highest:.4f} … {lowest:.4f}"
        rows.append((f"band {number}", span, f"{band['mean_label_tokens']:.0f}", _spread(losses)))
    rows.append(("random", "–", "–", _spread(record["random"][target])))
    rows.append(("nothing (base model)", "–", "–", f"{record['base'][target]:.4f}"))
    return rows


def verdict(record: dict[str, Any], name: str, target: str) -> str:
    """The rank correlation in a sentence."""
    trend = record["rankings"][name]["targets"][target]
    if trend["spearman"] is None:
        return f"{name}, loss on {target}: the same in every band, so no rank correlation"
    by_seed = ", ".join("none" if rho is None else f"{rho:.2f}" for rho in trend["spearman_by_seed"])
    return (
        f"{name}, loss on {target}: Spearman of band and loss {trend['spearman']:.2f} "
        f"(chance of as much by random order: {trend['permutation_p']:.4f}; by seed: {by_seed})"
    )


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def markdown(record: dict[str, Any]) -> str:
    tests = ", ".join(f"{count} of {target}" for target, count in record["tests"].items())
    lines = [
        "# Distance quantiles",
        "",
        f"The ranking cut into {record['bins']} bands of like size, band 1 the highest influence; LoRA from the base "
        f"model on {record['samples']} samples of each, {record['epochs']} epochs, seeds "
        f"{', '.join(map(str, record['seeds']))}. Loss: mean nats over the answer tokens of the test examples "
        f"({tests}); mean ± standard deviation over seeds.",
    ]
    for name, ranked in record["rankings"].items():
        for target in ranked["targets"]:
            lines += ["", f"## {verdict(record, name, target)}", ""]
            lines += ["| trained on | influence | mean label tokens | loss |", "| --- | --- | --- | --- |"]
            lines += [f"| {' | '.join(row)} |" for row in table_rows(record, name, target)]
    return "\n".join(lines) + "\n"
