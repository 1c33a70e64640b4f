"""Which rows the selectors take, and how they break ties."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import select
from gradsift.selection.selectors.budget import BudgetRequest
from gradsift.selection.selectors.queues import best_first
from gradsift.selection.selectors.turns import BestOfEach

P = 256


@pytest.fixture
def integer_pool(rng):
    """Rows of norm 2 with four entries ±1, so that scores against axes are exact and tie in masses."""
    rows = np.zeros((600, P), np.float32)
    for row in rows:
        row[rng.choice(8, size=4, replace=False)] = rng.choice([-1.0, 1.0], size=4)
    return rows


AXES = np.eye(8, P, dtype=np.float32)


def test_top_breaks_exact_ties_by_row_number(integer_pool):
    names = [f"t{j}" for j in range(8)]
    result = select([integer_pool], [AXES], count=200, subtasks=names)
    scores = (integer_pool[:, :8] / 2).max(axis=1)
    assert len(np.unique(scores)) <= 3, "the case must be full of ties"
    want = sorted(range(600), key=lambda i: (-scores[i], i))[:200]
    assert result.positions.tolist() == want
    np.testing.assert_array_equal(result.scores, scores[want])


def test_equal_subtasks_tie_for_the_first_of_them(integer_pool):
    result = select([integer_pool], [AXES[[0, 0]]], count=9, subtasks=["late", "early"])
    assert result.best_subtask == ["late"] * 9


@pytest.mark.parametrize("count", [1, 2, 5, 41, 600])
@pytest.mark.parametrize("reduce", ["less", "max", "cosine_to_mean"])
def test_round_robin_equals_taking_turns_one_by_one(count, reduce, integer_pool, rng):
    integer_pool[rng.choice(600, 30, replace=False)] = 0.0
    targets = AXES[[0, 1, 2, 3, 4]]
    names = ["a", "b", "a", "c", "c"]
    result = select(
        [integer_pool], [targets], count=count, selector="round_robin", reduce=reduce, subtasks=names, keep_scores=True
    )
    scores = result.subtask_scores
    assert scores.shape == (600, 5 if reduce == "max" else 3)
    free = [i for i in range(600) if integer_pool[i].any()]
    want, columns = [], []
    while len(want) < min(count, 570):
        column = len(want) % scores.shape[1]
        best = min(free, key=lambda i: (-scores[i, column], i))
        free.remove(best)
        want.append(best)
        columns.append(column)
    assert result.positions.tolist() == want
    np.testing.assert_array_equal(result.scores, scores[want, columns])
    assert result.best_target == [result.columns[j] for j in columns]
    assert result.counts["selected"] == len(want)


def test_round_robin_keeps_few_rows_of_a_long_scan(rng):
    chooser = BestOfEach(count=10, n_columns=2)
    scores = rng.standard_normal((100_000, 2)).astype(np.float32)
    for first in range(0, 100_000, 1000):
        chooser.see(first, scores[first : first + 1000], np.ones(1000, bool))
        held = sum(len(part) for top in chooser._columns for part, _ in top._parts)
        assert held <= 2 * (10 + 4096 + 1000)


def test_round_robin_serves_a_subtask_that_top_would_leave_out(gaussian):
    targets = gaussian(2)
    pool = np.concatenate([targets[:1] + 0.1 * gaussian(50), targets[1:] + 2.0 * gaussian(50)])
    options = {"count": 20, "subtasks": ["near", "far"]}
    top = select([pool], [targets], **options)
    turns = select([pool], [targets], selector="round_robin", **options)
    assert top.best_subtask.count("far") == 0
    assert turns.best_subtask.count("far") == 10


def test_random_is_repeatable_by_seed_and_differs_between_seeds(gaussian):
    pool, targets = gaussian(500), gaussian(2)
    a, b, c = (select([pool], [targets], count=100, selector="random", seed=seed).ids for seed in (1, 1, 2))
    assert a == b
    assert len(set(a)) == 100
    assert 5 <= len(set(a) & set(c)) <= 40  # 20 expected, sd 3.6


def test_random_places_a_sample_by_its_id_and_not_by_the_pool_around_it(gaussian):
    pool, targets = gaussian(500), gaussian(2)
    ids = [f"sample-{i}" for i in range(500)]
    whole = select([pool], [targets], fraction=1.0, selector="random", ids=ids, seed=7).ids
    half = select([pool[::-2]], [targets], fraction=1.0, selector="random", ids=ids[::-2], seed=7).ids
    assert half == [i for i in whole if i in set(half)]


def test_random_chooses_every_eligible_row_about_equally_often(gaussian):
    pool, targets = gaussian(40), gaussian(1)
    pool[13] = np.nan
    times = np.zeros(40, int)
    for seed in range(200):
        times[select([pool], [targets], count=10, selector="random", seed=seed).positions] += 1
    assert times[13] == 0
    others = np.delete(times, 13)  # binomial: mean 51, sd 6.2
    assert others.min() > 51 - 5 * 6.2
    assert others.max() < 51 + 5 * 6.2


@pytest.mark.parametrize("count", [1, 2, 7, 50, 99, 100, 200])
def test_best_first_equals_a_full_sort(count, rng):
    scores = rng.integers(-3, 4, size=100).astype(np.float32)
    positions = np.sort(rng.choice(1000, 100, replace=False))
    want = sorted(range(100), key=lambda i: (-scores[i], positions[i]))[:count]
    assert best_first(scores, positions, count).tolist() == want


@pytest.mark.parametrize(
    ("fraction", "n_rows", "want"),
    [(0.05, 1000, 50), (0.05, 1019, 50), (0.05, 19, 1), (1.0, 7, 7), (0.29, 100, 29), (1 / 3, 300, 100), (1e-9, 5, 1)],
)
def test_a_fraction_is_rounded_down_but_never_to_nothing(fraction, n_rows, want):
    assert BudgetRequest.of(fraction, None, "samples", n_rows, needed=True).samples(n_rows) == want


def test_fewer_eligible_rows_than_asked_for_are_all_taken_and_the_counts_say_so(gaussian):
    pool = gaussian(10)
    pool[:6] = np.nan
    result = select([pool], [gaussian(1)], count=5)
    assert (result.counts["requested"], result.counts["selected"]) == (5, 4)
    assert sorted(result.ids) == [6, 7, 8, 9]
