"""Arguments of `select` that cannot be used: each is named, with what was expected, and what to do."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import errors, select

POOL = np.ones((10, 256), np.float32)
TARGETS = np.ones((3, 256), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"candidates": POOL}, TypeError, r"candidates: expected a list with one .* got ndarray; put a single one"),
        ({"candidates": []}, ValueError, r"candidates: expected at least one .* got an empty list"),
        ({"candidates": ["run/store"]}, TypeError, r"candidates\[0\]: .* got 'run/store'; open it with Datastore.open"),
        ({"candidates": [POOL[0]]}, ValueError, r"candidates\[0\]: .* shape \(N, P\), got shape \(256,\)"),
        ({"candidates": [POOL.astype(int)]}, TypeError, r"candidates\[0\]: expected a float dtype, got int64"),
        ({"candidates": [POOL[:0]]}, ValueError, r"candidates: expected at least one row, got an empty pool"),
        ({"candidates": [POOL, POOL]}, ValueError, r"targets: expected 2, one per checkpoint as candidates, got 1"),
        ({"targets": [TARGETS[:0]]}, ValueError, r"targets: expected at least one row, got none"),
        ({"targets": [[]]}, ValueError, r"targets\[0\]: expected at least one .* got an empty list"),
        ({"weights": [1, 2]}, ValueError, r"weights: expected 1, one per checkpoint, got 2"),
        ({"weights": [-1]}, ValueError, r"weights: expected finite numbers >= 0, .* got \[-1\]"),
        ({"weights": [0.0]}, ValueError, r"weights: .* one at least above 0, got \[0.0\]"),
        ({"weights": [np.nan]}, ValueError, r"weights: expected finite numbers"),
        ({"weights": ["a"]}, TypeError, r"weights: expected numbers, got \['a'\]"),
        ({"weights": 1.0}, TypeError, r"weights: expected a sequence of numbers, got float"),
        ({"count": None}, ValueError, r"fraction, count: expected exactly one of them, got neither"),
        ({"fraction": 0.5}, ValueError, r"fraction, count: expected exactly one of them, got both"),
        ({"count": 0}, ValueError, r"count: expected 1 … 10, the rows of the pool, got 0"),
        ({"count": 11}, ValueError, r"count: expected 1 … 10, the rows of the pool, got 11"),
        ({"count": 2.0}, TypeError, r"count: expected an int, got float"),
        ({"count": None, "fraction": 0.0}, ValueError, r"fraction: expected 0 < fraction <= 1, got 0.0"),
        ({"count": None, "fraction": 5}, ValueError, r"fraction: expected 0 < fraction <= 1, got 5"),
        ({"count": None, "fraction": float("nan")}, ValueError, r"fraction: expected 0 < fraction <= 1, got nan"),
        ({"count": None, "fraction": "5%"}, TypeError, r"fraction: expected a float, got str"),
        ({"selector": "best"}, ValueError, r"selector: expected one of .*'top'.*, got 'best'"),
        ({"selector": "round_robin", "reduce": "mean"}, ValueError, r"selector: .* use reduce=\"less\""),
        ({"reduce": "median"}, ValueError, r"reduce: expected one of .*'less'.*, got 'median'"),
        ({"selector": "random", "seed": -1}, ValueError, r"seed: expected 0 … 2\*\*64 - 1, got -1"),
        ({"selector": "random", "seed": 1.5}, TypeError, r"seed: expected an int, got float"),
        ({"subtasks": ["a", "b"]}, ValueError, r"subtasks: expected 3 names, one a target row, got 2"),
        ({"subtasks": ["a", "b", ""]}, ValueError, r"subtasks: expected a name .* got '' in row 2"),
        ({"subtasks": ["a", None, "b"]}, TypeError, r"subtasks: expected a str .* got NoneType in row 1"),
        ({"subtasks": "abc"}, TypeError, r"subtasks: expected a sequence of str, one a target row, got str"),
        ({"ids": ["a"]}, ValueError, r"ids: expected 10, one a row of candidates, got 1"),
        ({"ids": [1, 2, 3, 4, 5, 6, 7, 8, 9, 4]}, ValueError, r"ids: expected each id once, got 4 again in row 9"),
        ({"ids": [0.5] * 10}, TypeError, r"ids: expected str or int, got float in row 0"),
        ({"ids": "abcdefghij"}, TypeError, r"ids: expected a sequence of str or int, got str"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    arguments = {"candidates": [POOL], "targets": [TARGETS], "count": 1, **changes}
    with pytest.raises(error, match=message):
        select(**arguments)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.nan, r"targets\[1\]: expected finite numbers, got NaN or infinity in target 2 \(row 2;"),
        (np.inf, r"targets\[1\]: expected finite numbers"),
        (0.0, r"targets\[1\]: expected a gradient other than zero, got zeros in target 2"),
    ],
)
def test_a_target_row_that_says_nothing_is_named(bad, message, gaussian):
    targets = [gaussian(4), gaussian(4)]
    targets[1][2] = bad
    with pytest.raises(ValueError, match=message):
        select([gaussian(5), gaussian(5)], targets, count=1)


def test_a_target_without_label_tokens_is_named_by_its_id(make_store, gaussian):
    rows = gaussian(4)
    rows[1] = 0.0
    store = make_store("target", rows, ids=["w", "x", "y", "z"], tokens=[3, 0, 3, 3])
    with pytest.raises(ValueError, match=r"targets\[0\]: expected label tokens, got none.* in target 'x' \(row 1;"):
        select([gaussian(5)], [store], count=1)


def test_targets_whose_mean_vanishes_have_no_cosine_to_it(gaussian):
    rows = gaussian(2)
    rows[1] = -rows[0]
    with pytest.raises(ValueError, match=r"targets\[0\]: expected a mean row other than zero in subtask 'target'"):
        select([gaussian(5)], [rows], count=1, reduce="cosine_to_mean")


def test_a_pool_of_which_no_row_is_eligible_is_an_error_that_counts_the_reasons():
    pool = POOL.copy()
    pool[:3], pool[3:] = np.nan, 0.0
    with pytest.raises(errors.DataError, match=r"got 10 of which none is eligible \(.*3 nonfinite, 7 zero\)"):
        select([pool], [TARGETS], count=1)


def test_checkpoints_of_other_samples_are_refused_with_the_first_difference(make_store, gaussian):
    rows = gaussian(4)
    a = make_store("a", rows, ids=["p", "q", "r", "s"])
    b = make_store("b", rows, ids=["p", "r", "q", "s"])
    short = make_store("short", rows[:3], ids=["p", "q", "r"])
    targets = [gaussian(1), gaussian(1)]
    with pytest.raises(errors.SpecMismatchError, match=r"candidates\[1\]: .* got 'r' instead of 'q' in row 1"):
        select([a, b], targets, count=1)
    with pytest.raises(
        errors.SpecMismatchError, match=r"candidates\[1\]: expected 4 rows as candidates\[0\] has, got 3"
    ):
        select([a, short], targets, count=1)
    with pytest.raises(errors.SpecMismatchError, match=r"targets\[1\]: .* got 'r' instead of 'q' in row 1"):
        select([rows, rows], [a, b], count=1)


def test_stores_of_another_projection_or_checkpoint_are_refused(make_store, gaussian):
    first, second = {"weights_digest": "aa"}, {"weights_digest": "bb"}
    pool = make_store("pool", gaussian(4), checkpoint=first)
    with pytest.raises(errors.SpecMismatchError, match=r"projection\.seed"):
        select([pool], [make_store("seed", gaussian(2), checkpoint=first, seed=1)], count=1)
    with pytest.raises(errors.SpecMismatchError, match=r"checkpoint\.weights_digest"):
        select([pool], [make_store("checkpoint", gaussian(2), checkpoint=second)], count=1)
    good = make_store("good", gaussian(2), checkpoint=first)
    other = make_store("other", gaussian(2), checkpoint=second)
    with pytest.raises(errors.SpecMismatchError, match=r"checkpoint\.weights_digest"):
        select([pool], [[good, other]], count=1)
    with pytest.raises(errors.SpecMismatchError, match=r"targets\[0\]: expected rows of 256 numbers .* got 512"):
        select([pool], [gaussian(2, 512)], count=1)


def test_ids_are_for_arrays_only(make_store, gaussian):
    with pytest.raises(ValueError, match=r"ids: expected None, since candidates\[0\] is a datastore"):
        select([make_store("pool", gaussian(2))], [gaussian(1)], count=1, ids=["a", "b"])


def test_learning_rates_that_only_some_stores_name_are_no_weights(make_store, gaussian):
    rows = gaussian(3)
    stores = [make_store("a", rows, checkpoint={"learning_rate": 1e-5}), make_store("b", rows)]
    with pytest.raises(ValueError, match=r"weights: .* candidates\[1\] names no learning_rate .* pass weights="):
        select(stores, [gaussian(1), gaussian(1)], count=1)
