"""Selections by a first scan against rounded columns: the same rows and scores as by exact columns alone."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import select
from gradsift.selection import screening

SUBTASKS = [f"skill {i // 2}" for i in range(20)]
RATES = [2.0, 1.0]


@pytest.fixture(autouse=True)
def rounding_is_faster(monkeypatch):
    """As on a CPU that multiplies bfloat16, which the one at hand may not."""
    monkeypatch.setattr(screening, "faster_if_rounded", lambda dtype: dtype == "bfloat16")


@pytest.fixture
def crowded(make_store, gaussian):
    """Two checkpoints of so many rows that some lie nearer to the edge of the selection than rounding moves them."""
    pools = [gaussian(40_000), gaussian(40_000)]
    pools[0][7], pools[1][400, 3] = 0.0, np.nan
    return [make_store(f"c{c}", rows, dtype="bfloat16") for c, rows in enumerate(pools)], [gaussian(20), gaussian(20)]


@pytest.mark.parametrize("reduce", ["less", "mean", "max", "cosine_to_mean"])
def test_the_rows_and_scores_are_those_of_exact_columns(reduce, crowded):
    settings = {"weights": RATES, "count": 4000, "reduce": reduce, "subtasks": SUBTASKS}
    exact = select(*crowded, target_dtype="float32", **settings)
    rounded = select(*crowded, target_dtype="bfloat16", **settings)
    got = select(*crowded, **settings)
    assert set(rounded.ids) != set(exact.ids), "rounding chose the same rows, so nothing is shown"
    assert got.ids == exact.ids
    np.testing.assert_array_equal(got.scores, exact.scores)
    assert got.best_target == exact.best_target
    assert got.counts == exact.counts
    assert 4000 <= got.record["settings"]["rescored"] <= 6000


def test_rows_in_question_alone_are_scored_again_and_the_others_are_off_by_the_margin_at_most(make_store, gaussian):
    store, targets = make_store("pool", gaussian(3000), dtype="bfloat16"), gaussian(20)
    settings = {"fraction": 0.05, "subtasks": SUBTASKS}
    exact = select([store], [targets], target_dtype="float32", **settings)
    rounded = select([store], [targets], target_dtype="bfloat16", **settings)
    got = select([store], [targets], **settings)
    record = got.record["settings"]
    assert record["screened_with"] == "bfloat16"
    again = np.flatnonzero(got.influence != rounded.influence)
    assert 150 <= record["rescored"] < 300
    assert len(again) <= record["rescored"]
    assert np.abs(rounded.influence - exact.influence).max() < record["screening_margin"]
    np.testing.assert_array_equal(got.influence[again], exact.influence[again])


def test_equal_rows_at_the_edge_of_the_selection_go_by_their_number(make_store, gaussian):
    rows = np.repeat(gaussian(8), 100, axis=0)
    store, targets = make_store("pool", rows, dtype="bfloat16", shard_rows=64), gaussian(20)
    exact, got = (
        select([store], [targets], count=50, subtasks=SUBTASKS, target_dtype=dtype) for dtype in ("float32", "auto")
    )
    assert got.positions.tolist() == exact.positions.tolist()


def test_fewer_rows_than_were_asked_for_are_all_taken(make_store, gaussian):
    rows = gaussian(800)
    rows[60:] = 0.0
    result = select([make_store("pool", rows, dtype="bfloat16")], [gaussian(20)], count=100, subtasks=SUBTASKS)
    assert "screened_with" in result.record["settings"]
    assert sorted(result.positions) == list(range(60))


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"target_dtype": "float32"}, "bfloat16"),
        ({"keep_scores": True}, "bfloat16"),
        ({"selector": "round_robin"}, "bfloat16"),
        ({"deduplicate": 0.9}, "bfloat16"),
        ({"budget": "tokens"}, "bfloat16"),
        ({"count": 200}, "bfloat16"),
        ({"subtasks": None}, "bfloat16"),
        ({}, "float16"),
        ({}, "int8"),
    ],
)
def test_every_row_is_scored_exactly_where_more_is_wanted_or_nothing_is_gained(changes, dtype, make_store, gaussian):
    store = make_store("pool", gaussian(400), dtype=dtype)
    result = select([store], [gaussian(20)], **{"count": 20, "subtasks": SUBTASKS} | changes)
    assert "screened_with" not in result.record["settings"]
    assert "screened_with" in select([make_store("screened", gaussian(400), dtype="bfloat16")], [gaussian(20)],
                                     count=20, subtasks=SUBTASKS).record["settings"]  # fmt: skip
