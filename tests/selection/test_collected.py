"""Scores made while collecting: the selections are those of stores."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import select
from gradsift.errors import DataError, SpecMismatchError
from gradsift.selection import ScoringSink, select_collected

SUBTASKS = ["a", "b", "a", "c"]
DTYPES = ["float32", "bfloat16", "float16", "int8", "int4", "int1"]


@pytest.fixture
def collected(gaussian, rng):
    """Rows and tokens of a pool at two checkpoints, some of which cannot be taken at one of them, and targets."""
    rows, targets = [gaussian(150) for _ in range(2)], [gaussian(4) for _ in range(2)]
    tokens = rng.integers(1, 40, 150)
    rows[0][7] = 0.0
    rows[1][9, 3] = np.nan
    rows[0][11] = rows[1][11] = 0.0
    tokens[11] = 0
    rows[0][20:30], rows[1][20:30] = rows[0][:10], rows[1][:10]
    return rows, targets, tokens


def sinks_of(rows, targets, tokens, as_sketches, ids, *, step=17, **options):
    sinks = []
    for part, target in zip(rows, targets, strict=True):
        sink = ScoringSink(target, subtasks=SUBTASKS, **options)
        for at in range(0, len(part), step):
            sink.append(ids[at : at + step], as_sketches(part[at : at + step], tokens[at : at + step]))
        sinks.append(sink)
    return sinks


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sink_selects_what_stores_of_its_dtype_give(dtype, collected, make_store, as_sketches):
    rows, _, tokens = collected
    rows = [r + 0 for r in rows]
    targets = [make_store(f"t{c}", t, ids=["w", "x", "y", "z"]) for c, t in enumerate(collected[1])]
    ids = [f"s{i}" for i in range(150)]
    stores = [make_store(f"p{c}", r, ids=ids, tokens=tokens, dtype=dtype) for c, r in enumerate(rows)]
    want = select(stores, targets, [3.0, 1.0], fraction=1.0, subtasks=SUBTASKS, keep_scores=True)
    sinks = sinks_of(rows, targets, tokens, as_sketches, ids, dtype=dtype)
    got = select_collected(sinks, [3.0, 1.0], fraction=1.0)
    assert got.ids == want.ids
    assert got.counts == want.counts
    assert (want.counts["excluded_no_labels"], want.counts["excluded_nonfinite"]) == (1, 2)
    assert want.counts["excluded_zero"] == 2
    np.testing.assert_allclose(got.influence, want.influence, atol=1e-6)
    np.testing.assert_allclose(got.subtask_scores, want.subtask_scores, atol=1e-6)
    assert got.record["ids_digest"] == want.record["ids_digest"]
    assert got.diagnostics["rows_measured"] == want.diagnostics["rows_measured"] == 145


@pytest.mark.parametrize("reduce", ["less", "mean", "max", "cosine_to_mean"])
@pytest.mark.parametrize(
    ("selector", "options", "budget"),
    [
        ("top", {}, {"count": 20}),
        ("round_robin", {}, {"count": 20}),
        ("vote", {"top": 0.1}, {"fraction": 0.2}),
        ("quota", {"by": "length"}, {"count": 300, "budget": "tokens"}),
        ("threshold", {"at_least": 0.01}, {}),
        ("random", {}, {"count": 10}),
    ],
)
def test_selectors_and_reductions_work_on_sinks_as_on_rows(selector, options, budget, reduce, collected, as_sketches):
    if reduce == "mean" and selector in ("round_robin", "vote"):
        selector, options = "band", {"low": 0.2, "high": 0.3}
    rows, targets, tokens = collected
    chosen = {"selector": selector, "options": options, "lengths": np.maximum(tokens, 1), **budget}
    sketches = [as_sketches(r, tokens) for r in rows]
    want = select(sketches, targets, subtasks=SUBTASKS, reduce=reduce, **chosen)
    sinks = sinks_of(rows, targets, tokens, as_sketches, list(range(150)), reduce=reduce)
    got = select_collected(sinks, **chosen)
    assert (got.ids, got.best_target) == (want.ids, want.best_target)
    np.testing.assert_allclose(got.scores, want.scores, atol=1e-6)


@pytest.mark.parametrize("step", [1, 17, 150])
def test_a_sink_of_the_best_alone_keeps_their_ids_and_counts_the_others(step, collected, as_sketches, monkeypatch):
    rows, targets, tokens = collected
    want = select([as_sketches(rows[0], tokens)], targets[:1], subtasks=SUBTASKS, count=12)
    (sink,) = sinks_of(rows[:1], targets[:1], tokens, as_sketches, list(range(150)), step=step, keep=12)
    got = select_collected([sink], count=12)
    assert got.ids == want.ids
    assert got.counts == want.counts
    np.testing.assert_array_equal(got.influence, want.influence)
    assert got.record["ids_digest"] == want.record["ids_digest"]
    assert sum(i is not None for i in sink.ids()) == 12


def test_a_sink_of_the_best_alone_reports_no_figure_and_no_id_that_it_has_not_kept(as_sketches, gaussian, tmp_path):
    sink = ScoringSink(gaussian(2), keep=5)
    sink.append([f"s{i}" for i in range(60)], as_sketches(gaussian(60)))
    got = select_collected([sink], count=5)
    assert (got.diagnostics["rows_measured"], got.diagnostics["spread"]) == (0, [])
    got.report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "None" not in page
    assert "Measured on 0 rows" not in page
    worst = got.record["distributions"]["landmarks"]["worst"][0]["position"]
    assert f"row {worst} (its id was not kept)" in page


def test_a_long_collection_holds_few_ids(as_sketches, gaussian):
    sink = ScoringSink(gaussian(2), keep=5)
    rows = gaussian(500)
    for at in range(0, 12_000, 500):
        sink.append([f"row {i}" for i in range(at, at + 500)], as_sketches(rows))
        assert len(sink._ids) <= 4096 + 500 + 5
    assert len(sink) == 12_000
    assert len(select_collected([sink], count=5).ids) == 5


def test_what_sinks_cannot_do_is_said(collected, as_sketches, gaussian):
    rows, targets, tokens = collected
    ids = list(range(150))
    two = sinks_of(rows, targets, tokens, as_sketches, ids, reduce="max")
    with pytest.raises(ValueError, match=r"selector: expected one that reads scores alone, got 'knn_kde'"):
        select_collected(two, count=3, selector="knn_kde")
    with pytest.raises(TypeError, match=r"sinks: expected a list with one ScoringSink per checkpoint"):
        select_collected(two[0], count=3)
    with pytest.raises(TypeError, match=r"sinks\[1\]: expected a ScoringSink, got ndarray"):
        select_collected([two[0], rows[1]], count=3)
    with pytest.raises(ValueError, match=r"sinks: expected at least one, got none"):
        select_collected([], count=3)
    best = sinks_of(rows, targets, tokens, as_sketches, ids, keep=4)
    for sinks, options in (
        (best, {"count": 3}),
        (best[:1], {"count": 5}),
        (best[:1], {"fraction": 0.01}),
        (best[:1], {"count": 3, "selector": "length"}),
    ):
        with pytest.raises(ValueError, match=r"keep: expected None, got 4: a sink of the best alone gives"):
            select_collected(sinks, **options)
    shuffled = sinks_of(rows[1:], targets[1:], tokens, as_sketches, ids[::-1], reduce="max")
    with pytest.raises(SpecMismatchError, match=r"sinks\[1\]: expected the 150 ids of sinks\[0\]"):
        select_collected([two[0], *shuffled], count=3)
    others = sinks_of(rows[1:], targets[1:], tokens, as_sketches, ids)
    with pytest.raises(SpecMismatchError, match=r"targets\[1\]: expected targets, subtasks and reduce"):
        select_collected([two[0], *others], count=3)
    with pytest.raises(ValueError, match=r"sinks: expected at least one row"):
        select_collected([ScoringSink(targets[0])], count=3)
    empty = ScoringSink(targets[0])
    empty.append([1, 2], as_sketches(np.zeros((2, 256))))
    with pytest.raises(DataError, match="none is eligible"):
        select_collected([empty], count=1)


def test_what_a_sink_is_given_is_checked(as_sketches, gaussian):
    with pytest.raises(ValueError, match=r"keep: expected at least 1, got 0"):
        ScoringSink(gaussian(2), keep=0)
    with pytest.raises(TypeError, match=r"keep: expected an int or None, got float"):
        ScoringSink(gaussian(2), keep=1.0)
    sink = ScoringSink(gaussian(2))
    with pytest.raises(ValueError, match=r"ids: expected 3, one a row, got 2"):
        sink.append([1, 2], as_sketches(gaussian(3)))
    with pytest.raises(SpecMismatchError, match=r"sketches: expected rows of 256 numbers as targets has, got 512"):
        sink.append([1, 2], as_sketches(gaussian(2, 512)))
    assert len(sink) == 0
    half = ScoringSink(gaussian(2), dtype="float16")
    with pytest.raises(ValueError, match=r"sketches: expected rows within the range of float16"):
        half.append([1], as_sketches(1e30 * gaussian(1)))
    twice = ScoringSink(gaussian(2))
    for _ in range(2):
        twice.append([1, 2], as_sketches(gaussian(2)))
    with pytest.raises(ValueError, match=r"ids: expected each id once, got 1 again in row 2"):
        select_collected([twice], count=3)


def test_several_target_stores_a_checkpoint_give_its_name_and_learning_rate(collected, make_store, as_sketches):
    rows, targets, tokens = collected
    checkpoints = [{"name": "early", "learning_rate": 3.0}, {"name": "late", "learning_rate": 1.0}]
    stores = [
        [make_store(f"t{c}{i}", part, ids=list(ids), checkpoint=at) for i, (part, ids) in enumerate(halves)]
        for c, at in enumerate(checkpoints)
        for halves in [((targets[c][:2], "wx"), (targets[c][2:], "yz"))]
    ]
    ids = list(range(150))
    got = select_collected(sinks_of(rows, stores, tokens, as_sketches, ids), count=20)
    want = select([as_sketches(r, tokens) for r in rows], stores, [3.0, 1.0], subtasks=SUBTASKS, count=20)
    assert got.ids == want.ids
    assert got.record["settings"]["weights"] == [0.75, 0.25]
    assert got.record["settings"]["weights_from"] == "learning_rate"
    assert {row["checkpoint"] for row in got.diagnostics["spread"]} == {"early", "late"}
