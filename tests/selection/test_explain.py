"""One candidate's influence taken apart, and that of all selected."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gradsift as gs
from gradsift.errors import DataError
from gradsift.selection import explaining, neighbours
from gradsift.selection.explaining import write_why

WEIGHTS = [1, 3]
SUBTASKS = ["a", "b", "a"]


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def task(gaussian):
    """Pools and targets of two checkpoints, and by hand: cosines (C, N, M), and η."""
    pools, targets = [gaussian(60), gaussian(60)], [gaussian(3), gaussian(3)]
    cosines = np.stack([unit(p) @ unit(t).T for p, t in zip(pools, targets, strict=True)])
    return pools, targets, cosines, np.array([0.25, 0.75])


def by_hand(cosines, eta, reduce):
    """(N,) influence, (N, 2) of each subtask."""
    total = np.tensordot(eta, cosines, axes=1)
    members = [[0, 2], [1]]
    inner = [total[:, m].max(axis=1) if reduce == "max" else total[:, m].mean(axis=1) for m in members]
    by_subtask = np.stack(inner, axis=1)
    return by_subtask.mean(axis=1) if reduce == "mean" else by_subtask.max(axis=1), by_subtask


@pytest.mark.parametrize("reduce", ["less", "mean", "max"])
def test_every_figure_is_the_formula_s(task, reduce):
    pools, targets, cosines, eta = task
    influence, by_subtask = by_hand(cosines, eta, reduce)
    for position in (0, 17, 59):
        found = gs.explain(position, pools, targets, WEIGHTS, subtasks=SUBTASKS, reduce=reduce, closest=3, neighbours=4)
        assert found.influence == pytest.approx(influence[position], abs=1e-6)
        assert (found.subtasks, found.checkpoints, found.excluded) == (["a", "b"], ["0", "1"], None)
        np.testing.assert_allclose(found.by_subtask, by_subtask[position], atol=1e-6)
        np.testing.assert_allclose(eta @ found.scores, found.by_subtask, atol=1e-6)
        assert found.rank == 1 + int((influence > influence[position]).sum())
        assert found.ranked == 60
        near = eta @ cosines[:, position]
        assert [n.id for n in found.closest_targets] == np.argsort(-near).tolist()
        assert [n.subtask for n in found.closest_targets] == [SUBTASKS[i] for i in np.argsort(-near)]
        np.testing.assert_allclose([n.similarity for n in found.closest_targets], np.sort(near)[::-1], atol=1e-6)
        alike = sum(e * (unit(p) @ unit(p[position])) for e, p in zip(eta, pools, strict=True))
        alike[position] = -np.inf
        assert [n.id for n in found.neighbours] == np.argsort(-alike)[:4].tolist()
        np.testing.assert_allclose([n.similarity for n in found.neighbours], np.sort(alike)[::-1][:4], atol=1e-6)


def test_scores_by_checkpoint_are_means_over_the_subtask(task):
    pools, targets, cosines, _ = task
    found = gs.explain(5, pools, targets, WEIGHTS, subtasks=SUBTASKS)
    np.testing.assert_allclose(found.scores[:, 0], cosines[:, 5, [0, 2]].mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.scores[:, 1], cosines[:, 5, 1], atol=1e-6)


def test_rank_and_influence_are_those_of_the_selection(gaussian, make_store):
    rows, targets = gaussian(700), gaussian(5)
    rows[300:310] = rows[0]  # equals: the smaller row number goes first
    store = make_store("pool", rows, shard_rows=256)
    result = gs.select([store], [targets], count=700)
    for rank in (1, 2, 350, 700, *(result.ids.index(f"s{i}") + 1 for i in (0, 300, 305))):
        found = gs.explain(result.ids[rank - 1], [store], [targets])
        assert (found.rank, found.ranked) == (rank, 700)
        assert found.influence == pytest.approx(float(result.scores[rank - 1]), abs=1e-6)


def test_every_row_is_read_once_beside_the_candidate_s_own(gaussian, make_store, monkeypatch):
    store = make_store("pool", gaussian(900), shard_rows=256)
    seen = []
    blocks, rows = type(store).blocks, type(store).rows
    monkeypatch.setattr(
        type(store), "blocks", lambda self, n, **kw: (seen.append(len(b)) or b for b in blocks(self, n, **kw))
    )
    monkeypatch.setattr(type(store), "rows", lambda self, a, b: seen.append(b - a) or rows(self, a, b))
    gs.explain("s123", [store], [gaussian(2)])
    assert sum(seen) == 900 + 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("math-017", "math-17"),
        ("MATH-17", "math-17"),
        ("math-1", "math-1[0-9]"),
        ("nothing-like-it", "ids look like 'math-0'"),
        ("mth-17", "math-17"),
        (17, "are str, not int"),
    ],
)
def test_an_unknown_id_is_an_error_that_suggests_others(gaussian, asked, said):
    with pytest.raises(DataError, match=f"expected one of the 30 candidates, got {asked!r}.*{said}"):
        gs.explain(asked, [gaussian(30)], [gaussian(1)], ids=[f"math-{i}" for i in range(30) if i != 1] + ["other"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [(30, r"got 30; there are 3, 0$"), ("3", r"got '3'; there are 3 \(ids here are int, not str\)$")],
)
def test_ids_that_are_numbers_are_suggested_as_such(gaussian, asked, said):
    with pytest.raises(DataError, match=said):
        gs.explain(asked, [gaussian(8)], [gaussian(1)])


@pytest.mark.parametrize(("field", "value", "error"), [("closest", -1, ValueError), ("neighbours", 1.5, TypeError)])
def test_numbers_to_name_are_checked(gaussian, field, value, error):
    with pytest.raises(error, match=field):
        gs.explain(0, [gaussian(5)], [gaussian(1)], **{field: value})


def test_rows_that_cannot_be_scored_say_why_and_have_no_neighbours(gaussian, as_sketches):
    pool, tokens = gaussian(20), np.full(20, 5)
    pool[3], pool[4, 7], tokens[5] = 0, np.nan, 0
    sketches = as_sketches(pool, tokens)
    for position, reason in ((3, "zero"), (4, "nonfinite"), (5, "no_labels")):
        found = gs.explain(position, [sketches], [gaussian(1)])
        assert (found.excluded, found.rank, found.ranked) == (reason, None, 17)
        assert np.isnan(found.influence)
        json.dumps(found.to_dict(), allow_nan=False)
    good = gs.explain(6, [sketches], [gaussian(1)], neighbours=20)
    assert {n.id for n in good.neighbours} == set(range(20)) - {3, 4, 5, 6}


def test_a_row_that_one_checkpoint_lacks_is_excluded_as_missing(gaussian, make_store):
    rows = gaussian(300)
    whole = make_store("whole", rows)
    holed = make_store("holed", rows, pieces=[range(100), range(200, 300)], data={"rows": 300})
    found = gs.explain("s150", [whole, holed], [gaussian(1), gaussian(1)], allow_partial=True)
    assert found.excluded == "missing"
    assert np.isfinite(found.scores[0]).all()
    assert gs.explain("s250", [whole, holed], [gaussian(1), gaussian(1)], allow_partial=True).excluded is None


@pytest.mark.parametrize("reduce", ["less", "mean", "max"])
@pytest.mark.parametrize("count", [3, 300])  # a few rows are fetched by number, many in passing
def test_why_says_of_all_selected_what_explain_says_of_one(gaussian, make_store, reduce, count, monkeypatch):
    monkeypatch.setattr(explaining, "_BATCH_BYTES", 70 * 4 * 256)  # batches that blocks and shards do not respect
    pools = [make_store(f"pool{c}", gaussian(800), shard_rows=256) for c in range(2)]
    targets = [gaussian(3), gaussian(3)]
    options = {"subtasks": SUBTASKS, "reduce": reduce}
    result = gs.select(pools, targets, WEIGHTS, count=count, **options)
    explanations = result.why(closest=2, neighbours=4)
    assert [e.id for e in explanations] == result.ids
    np.testing.assert_allclose([e.influence for e in explanations], result.scores, atol=1e-6)
    for place in (0, 1, count - 1):
        one = gs.explain(result.ids[place], pools, targets, WEIGHTS, closest=2, neighbours=4, **options).to_dict()
        same = explanations[place].to_dict()
        for key in ("subtasks", "checkpoints", "closest_targets", "neighbours"):
            assert _rounded(same[key]) == _rounded(one[key])


def test_neighbours_of_many_rows_are_those_of_each_and_progress_ends_at_all_pairs(gaussian, monkeypatch):
    monkeypatch.setattr(neighbours, "_AT_ONCE", 4)
    pools = [gaussian(40), gaussian(40)]
    for pool in pools:
        pool[[5, 9, 30]] = pool[7]  # ties go to the smaller row number, and a row is not its own neighbour
        pool[11] = 0  # never near anything
    result = gs.select(pools, [gaussian(3), gaussian(3)], WEIGHTS, count=39)
    told = []
    problem, positions = result.problem, np.array([9, 7, 30, 0, 38, 5, 12])
    found = neighbours.nearest_rows(problem, positions, 3, lambda done, total: told.append((done, total)))
    with np.errstate(invalid="ignore"):
        alike = sum(e * (unit(p) @ unit(p).T) for e, p in zip((0.25, 0.75), pools, strict=True))
    for position, near in zip(positions.tolist(), found, strict=True):
        others = [i for i in range(40) if i not in (position, 11)]
        want = sorted(others, key=lambda i: (-round(alike[position, i], 5), i))[:3]
        assert [i for i, _ in near] == want
        np.testing.assert_allclose([s for _, s in near], alike[position, want], atol=1e-6)
    assert told[-1] == (7 * 40, 7 * 40)
    assert told == sorted(told)


def test_a_pool_smaller_than_the_neighbours_asked_for_names_those_there_are(gaussian):
    result = gs.select([gaussian(3)], [gaussian(1)], count=2)
    assert [len(e.neighbours) for e in result.why(neighbours=10)] == [2, 2]
    assert [e.neighbours for e in result.why(neighbours=0)] == [[], []]


def _rounded(value):
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def test_why_jsonl_has_one_line_a_selected_row_in_order(gaussian, tmp_path):
    result = gs.select([gaussian(40)], [gaussian(3)], count=7, ids=[f"s{i}\u2028\ud800" for i in range(40)])
    write_why(tmp_path / "why.jsonl", result.why())
    lines = [json.loads(line) for line in (tmp_path / "why.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == result.ids
    assert [line["rank"] for line in lines] == list(range(1, 8))
    np.testing.assert_allclose([line["influence"] for line in lines], result.scores, atol=1e-6)
    said = ["id", "position", "influence", "rank", "subtasks", "checkpoints", "closest_targets", "neighbours"]
    assert list(lines[0]) == said
    assert [len(line["neighbours"]) for line in lines] == [3] * 7
