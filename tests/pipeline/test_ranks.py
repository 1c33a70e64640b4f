"""Rank correlations against their definition, and their intervals against what they must and must not say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gradsift.pipeline.ranks import mean_ranks, permutation_p, spearman_intervals, spearman_rows
from gradsift.selection.measures import spearman


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_ranks_of_equals_are_their_mean_along_the_last_axis() -> None:
    values = np.array([[3.0, 1.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    np.testing.assert_array_equal(mean_ranks(values) / 2 + 2.5, [[3.5, 2.0, 3.5, 1.0], [2.5, 2.5, 2.5, 2.5]])


@pytest.mark.parametrize("n", [2, 3, 50])
def test_rows_have_the_correlation_that_each_has_alone(rng: np.random.Generator, n: int) -> None:
    x, y = rng.integers(0, 9, (20, n)).astype(float), rng.normal(size=(20, n))
    alone = [spearman(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(spearman_rows(x, y), [np.nan if r is None else r for r in alone], rtol=1e-12)


def test_a_score_in_the_order_of_the_truth_has_an_interval_of_one_point(rng: np.random.Generator) -> None:
    truth = rng.normal(size=40)
    found = spearman_intervals({"adam": np.exp(truth), "same": truth * 3}, truth, against="adam")
    assert found["adam"] == {"rho": pytest.approx(1.0), "interval": pytest.approx([1.0, 1.0])}
    assert found["same"]["difference_interval"] == pytest.approx([0.0, 0.0])


def test_the_interval_of_a_difference_is_narrower_than_those_of_two_like_scores(rng: np.random.Generator) -> None:
    truth = rng.normal(size=80)
    close = truth + rng.normal(size=80)
    found = spearman_intervals({"adam": close, "near": close + 0.1 * rng.normal(size=80)}, truth, against="adam")
    width = np.diff(found["near"]["interval"])[0]
    assert np.diff(found["near"]["difference_interval"])[0] < width / 3
    low, high = found["near"]["interval"]
    assert low < found["near"]["rho"] < high


def test_about_95_of_100_intervals_hold_the_true_correlation(rng: np.random.Generator) -> None:
    true = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman of a bivariate normal with Pearson 0.6
    held = 0
    for _ in range(25):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        low, high = spearman_intervals({"adam": x}, y, against="adam")["adam"]["interval"]
        held += low <= true <= high
    assert 21 <= held <= 25


def test_a_constant_score_has_no_correlation_and_no_difference(rng: np.random.Generator) -> None:
    truth = rng.normal(size=10)
    found = spearman_intervals({"adam": truth, "flat": np.ones(10)}, truth, against="adam")
    assert found["flat"] == {"rho": None, "interval": None, "difference": None, "difference_interval": None}
    assert permutation_p(np.arange(4), np.ones(4)) is None


def test_the_chance_of_an_order_is_that_of_all_orders_counted() -> None:
    x, y = np.arange(6), np.array([0.0, 2.0, 1.0, 3.0, 5.0, 4.0])
    found = spearman(x, y)
    orders = [spearman(x, np.array(order)) for order in itertools.permutations(y)]
    exact = np.mean([rho is not None and found is not None and rho >= found - 1e-12 for rho in orders])
    assert permutation_p(x, y) == pytest.approx(exact, abs=0.003)
    assert permutation_p(np.arange(10), np.arange(10)) == pytest.approx(1 / 20_001, abs=2e-4)
