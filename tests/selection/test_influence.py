"""Influence against transcriptions and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import select
from gradsift.selection import REDUCTIONS
from gradsift.selection.influence import target_columns
from gradsift.selection.sources import open_sources

# scores are float32 products of 256 … 1024 entries; LESS computes its own in float32 too
BUDGET = 1e-6


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def released_matching(train, validation, weights, n_subtasks):
    """Transcription of less/data_selection/matching.py: rows there are normalised when they are collected."""
    w = np.asarray(weights, np.float64)
    w = w / w.sum()
    scores = 0.0
    for w_i, t_i, q_i in zip(w, train, validation, strict=True):
        scores = scores + w_i * (unit(t_i) @ unit(q_i).T)
    return scores.reshape(len(train[0]), n_subtasks, -1).mean(-1).max(-1)


def brute_force(reduce, candidates, targets, weights, subtasks):
    """(N, columns): the loops that the formulae are."""
    w = np.asarray(weights, np.float64) / np.sum(weights)
    names = list(dict.fromkeys(subtasks))
    out = np.zeros((len(candidates[0]), len(subtasks) if reduce == "max" else len(names)))
    for w_c, z, t in zip(w, candidates, targets, strict=True):
        for i, row in enumerate(unit(z)):
            cosines = np.array([row @ q for q in unit(t)])
            if reduce == "max":
                out[i] += w_c * cosines
                continue
            for j, name in enumerate(names):
                members = [m for m, s in enumerate(subtasks) if s == name]
                if reduce == "cosine_to_mean":
                    mean = t[members].astype(np.float64).mean(axis=0)
                    out[i, j] += w_c * (row @ mean) / np.linalg.norm(mean)
                else:
                    out[i, j] += w_c * np.mean([cosines[m] for m in members])
    return out


@pytest.fixture
def tensors(gaussian, rng):
    scales = np.exp(rng.standard_normal((3, 40, 1)))  # rows of LESS differ in norm by orders of magnitude
    candidates = [gaussian(40) * s.astype(np.float32) for s in scales]
    targets = [gaussian(9) * np.float32(10.0**c) for c in range(3)]
    return candidates, targets


LEARNING_RATES = [1.6877e-05, 1.2859e-05, 7.7030e-06]
UNEQUAL = ["b", "a", "b", "c", "c", "c", "c", "a", "c"]


@pytest.mark.parametrize("n_subtasks", [1, 3, 9])
def test_less_equals_the_released_matching_on_the_same_tensors(n_subtasks, tensors):
    candidates, targets = tensors
    subtasks = np.repeat([f"task{j}" for j in range(n_subtasks)], 9 // n_subtasks).tolist()
    result = select(candidates, targets, LEARNING_RATES, fraction=1.0, subtasks=subtasks)
    want = released_matching(candidates, targets, LEARNING_RATES, n_subtasks)
    np.testing.assert_allclose(result.influence, want, atol=BUDGET, rtol=0)
    np.testing.assert_array_equal(result.positions, np.argsort(-want))


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_every_reduction_equals_its_loops_for_unequal_subtasks(reduce, tensors):
    candidates, targets = tensors
    result = select(candidates, targets, LEARNING_RATES, count=7, reduce=reduce, subtasks=UNEQUAL, keep_scores=True)
    columns = brute_force(reduce, candidates, targets, LEARNING_RATES, UNEQUAL)
    np.testing.assert_allclose(result.subtask_scores, columns, atol=BUDGET, rtol=0)
    influence = columns.mean(axis=1) if reduce == "mean" else columns.max(axis=1)
    np.testing.assert_allclose(result.influence, influence, atol=BUDGET, rtol=0)
    order = np.argsort(-influence)[:7]
    np.testing.assert_array_equal(result.positions, order)
    best = columns[order].argmax(axis=1)
    assert result.subtasks == ["b", "a", "c"]
    assert result.best_subtask == [UNEQUAL[j] if reduce == "max" else result.subtasks[j] for j in best]
    assert result.best_target == ([*best.tolist()] if reduce == "max" else result.best_subtask)


def test_the_reductions_differ_where_they_should(tensors):
    candidates, targets = tensors
    found = [
        select(candidates, targets, LEARNING_RATES, count=1, reduce=r, subtasks=UNEQUAL).influence for r in REDUCTIONS
    ]
    for i, a in enumerate(found):
        for b in found[i + 1 :]:
            assert np.abs(a - b).max() > 1e-3


def test_one_subtask_of_all_targets_is_the_default(tensors):
    candidates, targets = tensors
    result = select(candidates, targets, LEARNING_RATES, count=3)
    want = released_matching(candidates, targets, LEARNING_RATES, 1)
    np.testing.assert_allclose(result.influence, want, atol=BUDGET, rtol=0)
    assert result.best_subtask == ["target"] * 3


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1.0, 5e307])
def test_only_the_ratios_of_the_weights_matter(scale, tensors):
    candidates, targets = tensors
    a = select(candidates, targets, [3.0, 0.0, 1.0], count=3)
    b = select(candidates, targets, [3.0 * scale, 0.0, scale], count=3)
    np.testing.assert_allclose(a.influence, b.influence, atol=1e-7, rtol=0)
    assert b.record["settings"]["weights"] == pytest.approx([0.75, 0.0, 0.25])


def test_weights_left_out_are_equal_for_arrays_and_the_record_says_so(tensors):
    candidates, targets = tensors
    result = select(candidates, targets, count=3)
    assert result.record["settings"]["weights_from"] == "equal"
    np.testing.assert_array_equal(result.influence, select(candidates, targets, [2, 2, 2], count=3).influence)


def test_weights_left_out_are_the_learning_rates_of_the_stores(make_store, tensors):
    candidates, targets = tensors
    stores = [
        make_store(f"c{c}", rows, checkpoint={"name": f"c{c}", "learning_rate": rate})
        for c, (rows, rate) in enumerate(zip(candidates, LEARNING_RATES, strict=True))
    ]
    result = select(stores, targets, count=3)
    assert result.record["settings"]["weights_from"] == "learning_rate"
    np.testing.assert_array_equal(result.influence, select(candidates, targets, LEARNING_RATES, count=3).influence)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_columns_are_rounded_to_bfloat16_where_that_is_asked(reduce, tensors):
    torch = pytest.importorskip("torch")
    candidates, targets = tensors
    columns = target_columns(open_sources("targets", targets), range(9), UNEQUAL, reduce)
    rounded = [torch.from_numpy(at).bfloat16().double().numpy() for at in columns.at]
    w = np.array(LEARNING_RATES) / sum(LEARNING_RATES)
    scores = sum(w_c * (unit(z) @ at.T) for w_c, z, at in zip(w, candidates, rounded, strict=True))
    want = scores.mean(axis=1) if reduce == "mean" else scores.max(axis=1)
    settings = {"fraction": 1.0, "reduce": reduce, "subtasks": UNEQUAL, "weights": LEARNING_RATES}
    exact = select(candidates, targets, **settings).influence
    got = select(candidates, targets, target_dtype="bfloat16", **settings)
    np.testing.assert_allclose(got.influence, want, rtol=0, atol=BUDGET)
    assert got.record["settings"]["target_dtype"] == "bfloat16"
    assert np.abs(got.influence - exact).max() > BUDGET, "nothing was rounded"


def test_a_column_dtype_that_is_none_is_refused(tensors):
    with pytest.raises(ValueError, match=r"target_dtype: expected one of .* got 'float16'"):
        select(*tensors, fraction=1.0, target_dtype="float16")
