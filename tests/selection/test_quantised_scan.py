"""Selection from quantised stores: rows are scored as they are stored, and the best once more from finer ones."""

from __future__ import annotations

import numpy as np
import pytest

from gradsift import errors, ops, select
from gradsift.datastore import Datastore, block

QUANTISED = ("int8", "int4", "int1")
# What rounding targets to multiples of 1/127 of their largest number may move a cosine by: six standard deviations.
ROUNDING = 6 * 4.2 / 127 / np.sqrt(12) / np.sqrt(256)


@pytest.fixture
def no_dequantising(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("rows were decoded")

    monkeypatch.setattr(block, "decode_rows", refuse)
    monkeypatch.setattr("gradsift.datastore.shard.decode_rows", refuse)


@pytest.mark.parametrize("dtype", [*QUANTISED, "bfloat16", "float16"])
@pytest.mark.parametrize("selector", ["top", "round_robin"])
def test_a_store_is_scanned_without_its_rows_being_decoded(dtype, selector, make_store, gaussian, no_dequantising):
    pool = make_store("pool", gaussian(700), dtype=dtype, shard_rows=256, seed=5)
    result = select([pool], [gaussian(4)], fraction=0.1, selector=selector, subtasks=list("aabb"))
    assert len(result.ids) == 70


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("reduce", ["less", "mean", "max", "cosine_to_mean"])
def test_influence_is_that_of_the_dequantised_rows(dtype, reduce, make_store, gaussian):
    stores = [make_store(f"c{c}", gaussian(300), dtype=dtype, seed=c, shard_rows=100) for c in range(2)]
    targets = [gaussian(4), gaussian(4)]
    options = {"fraction": 0.2, "reduce": reduce, "subtasks": list("aabb"), "keep_scores": True}
    got = select(stores, targets, [2, 1], **options)
    want = select([store.rows() for store in stores], targets, [2, 1], **options)
    np.testing.assert_allclose(got.influence, want.influence, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(got.subtask_scores, want.subtask_scores, rtol=0, atol=ROUNDING)
    assert np.abs(got.influence - want.influence).max() > 0


def test_checkpoints_of_several_dtypes_and_shards_are_scanned_together(make_store, gaussian):
    rows, targets = [gaussian(500) for _ in range(3)], [gaussian(3) for _ in range(3)]
    whole = [
        make_store(f"whole{c}", r, dtype=d)
        for c, (r, d) in enumerate(zip(rows, ("int4", "bfloat16", "int1"), strict=True))
    ]
    cut = [
        make_store(f"cut{c}", r, dtype=d, shard_rows=n)
        for c, (r, d, n) in enumerate(zip(rows, ("int4", "bfloat16", "int1"), (64, 129, 500), strict=True))
    ]
    want, got = (select(stores, targets, [1, 1, 1], count=50) for stores in (whole, cut))
    np.testing.assert_array_equal(got.influence, want.influence)
    assert got.ids == want.ids


@pytest.mark.parametrize("dtype", QUANTISED)
def test_rows_that_say_nothing_are_counted_by_reason(dtype, make_store, gaussian):
    rows = gaussian(80)
    rows[3], rows[70, 5] = 0.0, np.inf
    tokens = np.full(80, 5)
    tokens[9] = 0
    result = select([make_store("pool", rows, dtype=dtype, tokens=tokens)], [gaussian(2)], count=80)
    assert result.counts["eligible"] == 77
    assert [result.counts[f"excluded_{why}"] for why in ("no_labels", "nonfinite", "zero")] == [1, 1, 1]
    assert np.flatnonzero(np.isnan(result.influence)).tolist() == [3, 9, 70]


def planted(gaussian, rng, n=3000):
    """Rows whose cosines with the target spread little more than one bit can tell."""
    target = gaussian(1)
    unit = target / np.linalg.norm(target)
    return gaussian(n) + rng.standard_normal((n, 1)).astype(np.float32) * unit, target


def test_rescored_rows_have_the_scores_of_the_finer_store(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng)
    coarse, fine = (make_store(d, rows, dtype=d) for d in ("int1", "float32"))
    exact = select([fine], [target], count=60, keep_scores=True)
    rough = select([coarse], [target], count=60)
    again = select([coarse], [target], count=60, rescore=[fine], keep_scores=True)
    # of the best 300 by one bit, the best 60 by the rows themselves
    known = np.argsort(-rough.influence, kind="stable")[:300]
    want = known[np.lexsort((known, -exact.influence[known]))][:60]
    assert again.positions.tolist() == want.tolist()
    np.testing.assert_array_equal(again.scores, exact.influence[want])
    np.testing.assert_array_equal(again.subtask_scores[want], exact.subtask_scores[want])

    def recall(found):
        return len(set(found.positions) & set(exact.positions)) / 60

    assert recall(again) > recall(rough)
    others = np.setdiff1d(np.arange(3000), known)
    np.testing.assert_array_equal(again.influence[others], rough.influence[others])


def test_what_is_measured_beside_rescored_rows_is_of_the_scan(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng, n=400)
    coarse, fine = (make_store(d, rows, dtype=d) for d in ("int1", "float32"))
    rough, again = (select([coarse], [target], count=20, rescore=finer).record for finer in (None, [fine]))
    assert again["diagnostics"] == rough["diagnostics"]
    assert again["pool"] == rough["pool"]
    assert again["distributions"]["influence"]["edges"] == rough["distributions"]["influence"]["edges"]


def test_only_rescored_rows_are_selected(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng, n=400)
    # the finer scores of the best fall below the rough ones of all others
    coarse, fine = make_store("coarse", rows, dtype="int1"), make_store("fine", -rows, dtype="float32")
    rough = select([coarse], [target], count=20)
    again = select([coarse], [target], count=20, rescore=[fine])
    assert set(again.positions) <= set(np.argsort(-rough.influence, kind="stable")[:100])


def test_a_rescored_row_that_says_nothing_is_passed_over(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng, n=400)
    coarse = make_store("coarse", rows, dtype="int1")
    first = select([coarse], [target], count=1).positions[0]
    rows[first] = 0.0
    again = select([coarse], [target], count=5, rescore=[make_store("fine", rows, dtype="float32")])
    assert first not in again.positions
    assert len(again.ids) == 5


def test_the_record_says_what_rows_were_rescored_from(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng, n=100)
    coarse, fine = (make_store(d, rows, dtype=d) for d in ("int1", "int8"))
    record = select([coarse], [target], count=5, rescore=[fine]).record
    assert record["settings"]["rescored"] == 25
    assert [source["path"] for source in record["rescore"]] == [str(fine.path)]
    assert "rescored" not in select([coarse], [target], count=5).record["settings"]


def test_stores_of_other_samples_or_checkpoints_cannot_rescore(make_store, gaussian):
    rows, targets = gaussian(50), [gaussian(2)]
    coarse = make_store("coarse", rows, dtype="int1")
    with pytest.raises(ValueError, match="rescore: expected 1, one per checkpoint as candidates, got 2"):
        select([coarse], targets, count=5, rescore=[coarse, coarse])
    with pytest.raises(TypeError, match=r"rescore: expected a list"):
        select([coarse], targets, count=5, rescore=coarse)
    renamed = make_store("renamed", rows, ids=[f"other{i}" for i in range(50)])
    with pytest.raises(
        errors.SpecMismatchError, match=r"rescore: expected the ids of candidates.*'other0' instead of 's0'"
    ):
        select([coarse], targets, count=5, rescore=[renamed])
    with pytest.raises(errors.SpecMismatchError, match="rescore: expected 50 rows as candidates has, got 30"):
        select([coarse], targets, count=5, rescore=[make_store("short", rows[:30])])
    with pytest.raises(errors.SpecMismatchError, match=r"rescore\[0\]"):
        select([coarse], targets, count=5, rescore=[make_store("seed", rows, seed=9)])
    wide = make_store("wide", gaussian(50, 512))
    with pytest.raises(errors.SpecMismatchError, match=r"rescore\[0\]: expected rows of 256 numbers"):
        select([coarse], targets, count=5, rescore=[wide])


def test_a_finer_store_that_lacks_a_row_at_one_checkpoint_is_refused(make_store, gaussian):
    rows, targets = gaussian(50), [gaussian(2), gaussian(2)]
    coarse = [make_store(f"coarse{c}", rows, dtype="int1") for c in range(2)]
    whole = make_store("whole", rows)
    holed = make_store("holed", rows, data={"rows": 50}, pieces=[range(20), range(30, 50)])
    short = make_store("short", rows[:45])
    for finer, lacks in ((holed, "10 of them, row 20 first"), (short, "5 of them, row 45 first")):
        with pytest.raises(errors.DatastoreIncompleteError, match=rf"rescore\[1\]: .* lacks {lacks}"):
            select(coarse, targets, count=50, rescore=[whole, finer])
    # what the candidates lack, the finer stores need not have
    partial = make_store("partial", rows, dtype="int1", data={"rows": 50}, pieces=[range(20), range(30, 50)])
    got = select([coarse[0], partial], targets, count=50, rescore=[whole, holed], allow_partial=True)
    assert sorted(got.positions) == [*range(20), *range(30, 50)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 5, "selector": "round_robin"}, "rescore: expected selector 'top', got 'round_robin'"),
        ({"fraction": 0.1, "budget": "tokens"}, "rescore: expected a budget in samples, got one in tokens"),
    ],
)
def test_only_a_known_number_of_the_best_is_rescored(options, message, make_store, gaussian):
    coarse = make_store("coarse", gaussian(50), dtype="int1")
    with pytest.raises(ValueError, match=message):
        select([coarse], [gaussian(2)], rescore=[coarse], **options)


def test_arrays_can_rescore_arrays(gaussian, rng):
    rows, target = planted(gaussian, rng, n=200)
    found = ops.quantise_rows(rows, bits=1, seed=0)
    rough = ops.dequantise_rows(found.codes, found.scales, bits=1, seed=0)
    names = [f"n{i}" for i in range(200)]
    result = select([rough], [target], count=10, ids=names, rescore=[rows])
    exact = select([rows], [target], count=10, ids=names)
    assert set(result.ids) <= set(names)
    np.testing.assert_array_equal(result.scores, exact.influence[result.positions])


def test_a_finer_row_beyond_float32_is_passed_over(gaussian, rng):
    rows, target = planted(gaussian, rng, n=200)
    first = select([rows], [target], count=1).positions[0]
    finer = rows.astype(np.float64)
    finer[first] *= 1e300
    assert first not in select([rows], [target], count=10, rescore=[finer]).positions


def test_a_store_opened_by_path_is_what_rescores(make_store, gaussian, rng):
    rows, target = planted(gaussian, rng, n=100)
    fine = make_store("fine", rows, dtype="int8", shard_rows=16)
    coarse = make_store("coarse", rows, dtype="int1")
    one, two = (select([coarse], [target], count=10, rescore=[store]) for store in (fine, Datastore.open(fine.path)))
    assert one.ids == two.ids
