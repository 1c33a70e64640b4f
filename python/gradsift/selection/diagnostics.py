"""How far a selection can be trusted: spread, implied recall, length, flags (docs/scoring.md has the formulae)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np

from gradsift.selection.influence import Columns
from gradsift.selection.measures import spearman
from gradsift.selection.scan import Pool, ScoreSample

# Beyond it a selection is in good part one by length; the rank correlation alone then explains a sixth of the ranking.
LARGE_SPEARMAN = 0.4
LOW_RECALL = 0.6
MANY_FLAGGED = 0.01
PROJ_DIMS = tuple(1 << e for e in range(10, 17))

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


def implied_recall(spread: float, noise: float, share: float) -> float:
    """Expected share of the true top `share` that is found by scores with noise, both normal.

    ``P(Y > q | X > q)`` for true scores X ~ N(0, spread²), measured ones Y = X + N(0, noise²), each cut at its own
    upper quantile q of `share`. With ρ = spread / √(spread² + noise²) and q the standard normal quantile it is
    ``share + (1 / 2π·share) ∫₀^{arcsin ρ} exp(−q² / (1 + sin θ)) dθ`` (Plackett, Biometrika 1954).

    Parameters
    ----------
    spread, noise : float, >= 0
        Standard deviations.
    share : float, 0 < share <= 1

    Returns
    -------
    float
        `share`, which chance would find, where `spread` is 0.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share: expected 0 < share <= 1, got {share}")
    if not (spread >= 0 and noise >= 0):
        raise ValueError(f"spread, noise: expected standard deviations >= 0, got {spread} and {noise}")
    if share == 1 or (noise == 0 and spread > 0):
        return 1.0
    if spread == 0:
        return share
    quantile = NormalDist().inv_cdf(1 - share)
    half = math.asin(spread / math.hypot(spread, noise)) / 2
    angles = half * (_NODES + 1)
    area = half * float(_WEIGHTS @ np.exp(-(quantile**2) / (1 + np.sin(angles))))
    return min(1.0, share + area / (2 * math.pi * share))


def diagnose(
    pool: Pool,
    sample: ScoreSample,
    columns: Columns,
    weights: np.ndarray,
    *,
    reduce: str,
    selected: int,
    checkpoints: Sequence[str],
    projected: bool = True,
) -> dict[str, Any]:
    """What `Selection.diagnostics` holds, as JSON values; scores that are not `projected` are exact."""
    usable = pool.reason == 0
    rows = usable[sample.positions]
    proj_dim = columns.at[0].shape[1]
    if not projected:
        columns = replace(columns, at=[np.zeros_like(at) for at in columns.at])
    noise = column_noise(columns, weights)
    share = selected / int(usable.sum())
    influence = pool.influence[usable].astype(np.float64)
    if reduce == "mean":
        mean = Columns([at.mean(axis=0, keepdims=True) for at in columns.at], ["mean"], ["mean"], {})
        influence_noise = float(column_noise(mean, weights)[0])
    else:
        influence_noise = float(np.sqrt(np.mean(noise[pool.best[usable]] ** 2)))
    overall = _corrected(float(influence.std()), influence_noise)
    dims = sorted({proj_dim, *PROJ_DIMS}) if projected else [proj_dim]
    excluded = pool.excluded()
    tokens = pool.tokens[usable]
    record: dict[str, Any] = {
        "proj_dim": proj_dim,
        "projected": projected,
        "rows_measured": int(rows.sum()),
        "spread": _by_subtask(sample.scores[:, rows], columns, weights, checkpoints),
        "influence": overall,
        "implied_recall": {
            "share": share,
            "recall": {
                str(d): implied_recall(overall["sd_corrected"], influence_noise * math.sqrt(proj_dim / d), share)
                if projected
                else 1.0
                for d in dims
            },
        },
        "score_length_spearman": spearman(influence, tokens) if (tokens >= 0).all() else None,
        "flagged": {reason: count / len(pool.reason) for reason, count in excluded.items()},
        "sources": None,
    }
    return record | {"warnings": _warnings(record)}


def column_noise(columns: Columns, weights: np.ndarray) -> np.ndarray:
    """(S,) standard deviation that the projection gives each column's weighted score of an unrelated candidate.

    For one checkpoint ‖column‖ / √P. Several share one projection, and their errors add up as far as both the target's
    and the candidate's gradients agree between checkpoints; the candidate's are taken to agree wholly, so that the
    noise is not understated: ``√(Σ_{c,d} η_c η_d max(0, ⟨column_c, column_d⟩) / P)``.
    """
    proj_dim = max(1, columns.at[0].shape[1])  # scores that come of no rows have columns of no numbers
    noise = np.empty(len(columns.names))
    for j in range(len(columns.names)):
        at = np.stack(
            [weight * column[j].astype(np.float64) for weight, column in zip(weights, columns.at, strict=True)]
        )
        noise[j] = math.sqrt(np.maximum(at @ at.T, 0.0).sum() / proj_dim)
    return noise


def _corrected(sd: float, noise: float) -> dict[str, float]:
    return {"sd": sd, "noise_sd": noise, "sd_corrected": math.sqrt(max(0.0, sd**2 - noise**2))}


def _by_subtask(
    scores: np.ndarray, columns: Columns, weights: np.ndarray, checkpoints: Sequence[str]
) -> list[dict[str, Any]]:
    """One row a checkpoint and subtask; where every target has a column, their root mean squares. None of no scores."""
    one = np.ones(1)
    found: list[dict[str, Any]] = []
    if scores.shape[1] == 0:
        return found
    for c, name in enumerate(checkpoints):
        noise = column_noise(Columns([columns.at[c]], columns.names, columns.subtask, columns.sizes), one)
        for subtask in columns.sizes:
            mine = [j for j, of in enumerate(columns.subtask) if of == subtask]
            part = scores[c][:, mine].astype(np.float64)
            sd = float(np.sqrt(part.var(axis=0).mean()))
            found.append(
                {"checkpoint": name, "subtask": subtask, "weight": float(weights[c])}
                | {"mean": float(part.mean())}
                | _corrected(sd, float(np.sqrt((noise[mine] ** 2).mean())))
            )
    return found


def _warnings(record: dict[str, Any]) -> list[str]:
    found = []
    recall = record["implied_recall"]["recall"]
    here = recall[str(record["proj_dim"])]
    if here < LOW_RECALL:
        larger = {d: value for d, value in recall.items() if int(d) in (4 * record["proj_dim"], PROJ_DIMS[-1])}
        better = [f"{value:.2f} at proj_dim = {d}" for d, value in larger.items() if int(d) > record["proj_dim"]]
        found.append(
            f"the projection's noise ({record['influence']['noise_sd']:.4f}) is large beside the spread of the "
            f"influence ({record['influence']['sd_corrected']:.4f}): about {here:.0%} of the true top would be found"
            + (f" ({', '.join(better)})" if better else "")
        )
    rho = record["score_length_spearman"]
    if rho is not None and abs(rho) >= LARGE_SPEARMAN:
        what = "long" if rho > 0 else "short"
        found.append(
            f"influence follows length (Spearman {rho:+.2f} with label tokens): {what} samples are preferred; compare "
            "with a choice by length alone, or select within bands of length"
        )
    flagged = sum(record["flagged"].values())
    if flagged > MANY_FLAGGED:
        reasons = ", ".join(f"{share:.1%} {reason}" for reason, share in record["flagged"].items() if share)
        found.append(f"{flagged:.1%} of the pool could not be scored ({reasons})")
    return found
