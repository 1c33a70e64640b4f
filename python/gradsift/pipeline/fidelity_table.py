"""What the steps of a fidelity run come to: rank correlations with intervals, as numbers and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradsift.pipeline.ranks import spearman_intervals
from gradsift.selection.measures import spearman

SPACES = ("exact", "sketched")
MEASURES = ("cosine", "inner")
_NULLS = {"−loss": ("loss", -1.0), "−label tokens": ("label_tokens", -1.0), "gradient norm": ("gradient_norm", 1.0)}


def summarise(
    records: Sequence[Mapping[str, Any]],
    targets: Mapping[str, Mapping[str, Any]],
    *,
    rate: float,
    stored: Mapping[str, Sequence[float]] | None,
    gamma: str,
) -> dict[str, Any]:
    """Spearman of every score with the decrease of every subtask's loss, and what bounds it.

    Parameters
    ----------
    records : one a sample, as ``records.jsonl`` holds them
    targets : by subtask, as ``targets.json`` holds them: examples, loss, and what it moves by itself
    rate : float
        The steps' learning rate.
    stored : scores by subtask from the datastores, (N,) each, or None
    gamma : str
        The Γ of the stored scores.
    """
    return {
        "stored_gamma": None if stored is None else gamma,
        "subtasks": {
            subtask: {
                **noise,
                **_of_subtask(records, subtask, s, rate, None if stored is None else np.asarray(stored[subtask])),
            }
            for s, (subtask, noise) in enumerate(targets.items())
        },
    }


def _of_subtask(
    records: Sequence[Mapping[str, Any]], subtask: str, s: int, rate: float, stored: np.ndarray | None
) -> dict[str, Any]:
    decrease = -np.array([r["change"][subtask] for r in records])
    kinds = list(records[0]["scores"])

    def column(kind: str, space: str, measure: str) -> np.ndarray:
        return np.array([r["scores"][kind][space][measure][s] for r in records])

    scores = {
        space: {
            measure: spearman_intervals({k: column(k, space, measure) for k in kinds}, decrease, against="adam")
            for measure in MEASURES
        }
        for space in SPACES
    }
    others = {name: sign * np.array([r[key] for r in records]) for name, (key, sign) in _NULLS.items()}
    others |= {} if stored is None else {"stored": stored}
    with_adam = {"adam": column("adam", "sketched", "cosine"), **others}
    compared = spearman_intervals(with_adam, decrease, against="adam")
    predicted = rate * column("adam", "exact", "inner")
    return {
        "decrease": {
            "mean": float(decrease.mean()),
            "sd": float(decrease.std()),
            "min": float(decrease.min()),
            "max": float(decrease.max()),
        },
        "first_order": {
            "pearson": _pearson(predicted, decrease),
            "measured_over_predicted": float(decrease.sum() / predicted.sum()) if predicted.sum() else None,
        },
        "scores": scores,
        "others": {name: compared[name] for name in others},
        "projection": {
            kind: {
                **{m: spearman(column(kind, "exact", m), column(kind, "sketched", m)) for m in MEASURES},
                "cosine_sd": float(column(kind, "exact", "cosine").std()),
                "cosine_error_sd": float((column(kind, "sketched", "cosine") - column(kind, "exact", "cosine")).std()),
            }
            for kind in kinds
        },
    }


def _pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    a, b = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0.0 else None


def markdown(record: Mapping[str, Any]) -> str:
    """The record of a fidelity run as a page."""
    settings = record["settings"]
    lines = [
        "# One-step fidelity",
        "",
        f"{settings['checkpoint']['name']}, {settings['samples']} samples of the pool (seed {settings['seed']}), one "
        f"step of AdamW on each alone at learning rate {settings['learning_rate']:.3g} "
        f"({settings['step_scale']:g} times the checkpoint's mean), no weight decay, float32. Spearman of the score "
        "with the decrease of the target loss, and its 95% bootstrap interval over samples.",
    ]
    for subtask, found in record["subtasks"].items():
        lines += [
            "",
            f"## {subtask}",
            "",
            *_notes(found),
            "",
            *_scores_table(found),
            "",
            *_projection_table(found),
            "",
            *_others_table(record, found),
        ]
    return "\n".join(lines) + "\n"


def _notes(found: Mapping[str, Any]) -> list[str]:
    decrease, first = found["decrease"], found["first_order"]
    ratio = first["measured_over_predicted"]
    return [
        f"Loss on {found['examples']} target examples: {found['loss']:.4f} nats; decrease by one step "
        f"{decrease['mean']:.2e} ± {decrease['sd']:.1e} (sd over samples), from {decrease['min']:.2e} to "
        f"{decrease['max']:.2e}. Nothing moved: {found['identity']:.1e}; parameters moved by one rounding: "
        f"{found['rounding']:.1e}. Against the first order of the exact step: Pearson {_plain(first['pearson'], 3)}, "
        f"measured over predicted decrease {_plain(ratio, 2)}."
    ]


def _scores_table(found: Mapping[str, Any]) -> list[str]:
    columns = [(space, measure) for space in SPACES for measure in MEASURES]
    lines = [
        f"| Γ | {' | '.join(f'{measure}, {space}' for space, measure in columns)} | sketched cosine less adam's |",
        f"|{' --- |' * (len(columns) + 2)}",
    ]
    for kind in found["projection"]:
        cells = [_cell(found["scores"][space][measure][kind]) for space, measure in columns]
        cells.append(_difference(found["scores"]["sketched"]["cosine"][kind]))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _projection_table(found: Mapping[str, Any]) -> list[str]:
    """What the projection costs: the two scores' own rank correlation, and its error beside what it has to resolve."""
    lines = [
        "| Γ | sketched with exact, cosine | inner | sd of exact cosines | sd of the sketch's error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, cost in found["projection"].items():
        cells = [_plain(cost[measure], 2) for measure in MEASURES]
        cells += [_plain(cost[key], 4) for key in ("cosine_sd", "cosine_error_sd")]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _others_table(record: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = ["| other scores | Spearman | less adam's sketched cosine |", "| --- | --- | --- |"]
    for name, entry in found["others"].items():
        if name == "stored":
            name = f"cosine of the datastores ({record['stored_gamma']})"
        lines.append(f"| {name} | {_cell(entry)} | {_difference(entry)} |")
    if record["stored_gamma"] is None:
        lines.append("| cosine of the datastores | no rows of the pool are stored | – |")
    return lines


def _cell(entry: Mapping[str, Any]) -> str:
    return "–" if entry["rho"] is None else f"{entry['rho']:.2f} {_span(entry['interval'])}"


def _difference(entry: Mapping[str, Any]) -> str:
    if entry.get("difference") is None:
        return "–"
    return f"{entry['difference']:+.2f} {_span(entry['difference_interval'])}"


def _span(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.2f}, {interval[1]:.2f}]"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
