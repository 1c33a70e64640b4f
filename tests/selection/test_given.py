"""Selections by scores that come of no rows: given ones, and BM25 against the loops of its formula."""

from __future__ import annotations

import builtins
import json
import math

import numpy as np
import pytest

from gradsift.errors import DataError, DependencyMissingError
from gradsift.selection import select_by_text, select_scored

WORDS = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen"]
SUBTASKS = ["a", "b", "a"]


@pytest.fixture
def texts(rng):
    candidates = [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(40)]
    candidates[3], candidates[4] = "", "Ünique, ANT; ant"
    return candidates, ["Ant bee bee", "cat... unknown", "fox ant"]


def bm25(candidates, query):
    """Lucene's BM25 as its formula stands."""
    import re

    documents = [re.findall(r"\w+", c.lower()) for c in candidates]
    average = sum(map(len, documents)) / len(documents)
    found = []
    for d in documents:
        score = 0.0
        for t in re.findall(r"\w+", query.lower()):
            n_t = sum(t in other for other in documents)
            f = d.count(t)
            if n_t:
                idf = math.log(1 + (len(documents) - n_t + 0.5) / (n_t + 0.5))
                score += idf * f / (f + 1.5 * (0.25 + 0.75 * len(d) / average))
        found.append(score)
    return np.array(found)


@pytest.mark.parametrize("reduce", ["less", "mean", "max"])
def test_bm25_is_its_formula_folded_by_subtask(reduce, texts):
    candidates, targets = texts
    result = select_by_text(candidates, targets, count=10, subtasks=SUBTASKS, reduce=reduce)
    each = np.stack([bm25(candidates, t) for t in targets], axis=1)
    columns = each if reduce == "max" else np.stack([each[:, [0, 2]].mean(axis=1), each[:, 1]], axis=1)
    want = columns.mean(axis=1) if reduce == "mean" else columns.max(axis=1)
    np.testing.assert_allclose(result.influence, want, atol=1e-5)
    assert (np.diff(result.scores) <= 0).all()
    assert (
        result.best_target[0] == ([0, 1, 2] if reduce == "max" else ["a", "b"])[columns[result.positions[0]].argmax()]
    )
    assert result.record["settings"]["scores"] == "bm25"
    json.dumps(result.to_dict(), allow_nan=False)


def test_bm25_of_texts_without_a_word_is_zero(texts):
    result = select_by_text(["…", "!"], ["?", "word"], count=2)
    assert result.scores.tolist() == [0.0, 0.0]
    result = select_by_text(["ant"], ["?"], count=1)
    assert result.scores.tolist() == [0.0]


def test_bm25_works_with_other_selectors_and_says_what_it_counts(texts):
    candidates, targets = texts
    turns = select_by_text(
        candidates, targets, count=60, budget="tokens", selector="round_robin", subtasks=SUBTASKS, lengths=[7] * 40
    )
    assert turns.best_subtask == ["a", "b"] * 4
    assert turns.counts["selected_tokens"] == 56
    assert turns.diagnostics["projected"] is False
    assert turns.diagnostics["implied_recall"]["recall"] == {"0": 1.0}
    assert not [w for w in turns.diagnostics["warnings"] if "projection" in w]


def test_a_missing_library_is_named_with_what_installs_it(texts, monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "bm25s":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyMissingError, match=r'pip install "gradsift\[baselines\]"'):
        select_by_text(*texts, count=1)


@pytest.mark.parametrize("reduce", ["less", "mean", "max"])
def test_given_scores_are_folded_by_subtask_and_leave_out_what_has_none(reduce, rng):
    scores = rng.standard_normal((30, 3))
    scores[4, 1], scores[5, 0] = np.nan, np.inf
    tokens = np.full(30, 9)
    tokens[7] = 0
    result = select_scored(scores, fraction=1.0, subtasks=SUBTASKS, reduce=reduce, tokens=tokens)
    columns = scores if reduce == "max" else np.stack([scores[:, [0, 2]].mean(axis=1), scores[:, 1]], axis=1)
    want = columns.mean(axis=1) if reduce == "mean" else columns.max(axis=1)
    eligible = [i for i in range(30) if i not in (4, 5, 7)]
    assert result.positions.tolist() == sorted(eligible, key=lambda i: -want[i])
    assert (result.counts["excluded_nonfinite"], result.counts["excluded_no_labels"]) == (2, 1)
    assert result.counts["eligible"] == 27


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scores": np.ones(3)}, ValueError, r"scores: expected shape \(N, M\), one row a candidate, got \(3,\)"),
        ({"scores": np.ones((3, 0))}, ValueError, r"scores: expected shape \(N, M\)"),
        ({"scores": np.ones((3, 2), int)}, TypeError, r"scores: expected a float dtype, got int64"),
        ({"reduce": "cosine_to_mean"}, ValueError, r"reduce: expected one of \('less', 'mean', 'max'\)"),
        ({"selector": "knn_kde", "reduce": "max"}, ValueError, r"selector: expected one that reads scores alone"),
        ({"ids": ["a"]}, ValueError, r"ids: expected 10, one a candidate, got 1"),
        ({"target_ids": ["a"]}, ValueError, r"target_ids: expected 2, one a target example, got 1"),
        ({"subtasks": ["a"]}, ValueError, r"subtasks: expected 2 names"),
        ({"ids": []}, ValueError, r"ids: expected 10, one a candidate, got 0"),
        ({"target_ids": []}, ValueError, r"target_ids: expected 2, one a target example, got 0"),
        ({"tokens": [1.5] * 10}, TypeError, r"tokens: expected integers, got float64"),
        ({"tokens": [None] * 10}, TypeError, r"tokens: expected integers, got object"),
        ({"tokens": [1]}, ValueError, r"tokens: expected shape \(10,\), one a candidate, got \(1,\)"),
        ({"scores": np.full((3, 2), np.nan)}, DataError, r"3 of which none is eligible"),
    ],
)
def test_scores_that_cannot_be_used_are_named(changes, error, message):
    arguments = {"scores": np.ones((10, 2)), "count": 1, **changes}
    with pytest.raises(error, match=message):
        select_scored(arguments.pop("scores"), **arguments)


@pytest.mark.parametrize(
    ("texts", "targets", "error", "message"),
    [
        ("one text", ["t"], TypeError, r"texts: expected a sequence of str, got str"),
        (["t"], [], ValueError, r"target_texts: expected at least one text, got none"),
        (["t", 3], ["t"], TypeError, r"texts: expected str, got int in row 1"),
    ],
)
def test_texts_that_cannot_be_used_are_named(texts, targets, error, message):
    with pytest.raises(error, match=message):
        select_by_text(texts, targets, count=1)
