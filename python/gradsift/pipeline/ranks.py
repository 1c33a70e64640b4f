"""Rank correlations with what is known of their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_RESAMPLES = 2000
_PERMUTATIONS = 20_000
_TAILS = (0.025, 0.975)


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Twice the rank of each value in its row, less its mean, equals sharing their mean rank; whole numbers as float64.

    Along the last axis.
    """
    n = values.shape[-1]
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, -1)
    new = np.ones(values.shape, bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    place = np.broadcast_to(np.arange(n), values.shape)
    first = np.maximum.accumulate(np.where(new, place, 0), axis=-1)
    ends = np.ones(values.shape, bool)
    ends[..., :-1] = new[..., 1:]
    last = np.flip(np.minimum.accumulate(np.flip(np.where(ends, place, n), -1), axis=-1), -1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, (first + last).astype(np.float64) - (n - 1), -1)
    return ranks


def spearman_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's ρ of each row of `x` with the same row of `y`, (R, N) both; NaN where one of the two is constant."""
    a, b = mean_ranks(x), mean_ranks(y)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    rho: np.ndarray = np.where(scale > 0.0, (a * b).sum(-1) / np.where(scale > 0.0, scale, 1.0), np.nan)
    return rho


def spearman_intervals(
    scores: Mapping[str, np.ndarray], truth: np.ndarray, *, against: str, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Spearman's ρ of each of `scores` with `truth`, (N,) each, with percentile bootstrap intervals of 95%.

    Every score is resampled by the same 2,000 draws, so that the difference to the score called `against` has an
    interval of its own: the ρ of two scores on the same samples go up and down together.

    Returns
    -------
    dict
        For each score ``rho`` and ``interval``, and, but for `against`, ``difference`` (its ρ less that of `against`)
        and ``difference_interval``; all None where a score is constant.
    """
    draws = np.random.default_rng(seed).integers(0, len(truth), size=(_RESAMPLES, len(truth)))
    drawn = {name: spearman_rows(values[draws], truth[draws]) for name, values in scores.items()}
    own = {name: _number(spearman_rows(values[None], truth[None])[0]) for name, values in scores.items()}
    result: dict[str, dict[str, Any]] = {}
    for name, rho in own.items():
        entry: dict[str, Any] = {"rho": rho, "interval": None if rho is None else _interval(drawn[name])}
        reference = own[against]
        if name != against:
            both = rho is not None and reference is not None
            entry["difference"] = rho - reference if rho is not None and reference is not None else None
            entry["difference_interval"] = _interval(drawn[name] - drawn[against]) if both else None
        result[name] = entry
    return result


def _interval(drawn: np.ndarray) -> list[float]:
    """Of the resamples in which ρ is defined."""
    found: list[float] = np.nanquantile(drawn, _TAILS).tolist()
    return found


def _number(rho: float) -> float | None:
    return None if np.isnan(rho) else float(rho)


def permutation_p(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> float | None:
    """Share of random orders of `y` whose ρ with `x` is at least the one found; None where ρ is not defined.

    One-sided, by 20,000 seeded orders and the order found: never below 1 / 20,001.
    """
    a, b = mean_ranks(x), mean_ranks(y)
    if not (a.any() and b.any()):
        return None
    shuffled = np.random.default_rng(seed).permuted(np.tile(b, (_PERMUTATIONS, 1)), axis=1) @ a
    as_high = int((shuffled >= a @ b).sum())  # sums of whole numbers: exact
    return (as_high + 1) / (_PERMUTATIONS + 1)
