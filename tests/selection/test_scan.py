"""The blocked scan: blocks, memory, excluded rows, partial stores."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gradsift import errors, select
from gradsift.selection import scan
from gradsift.selection.sources import ArrayBlock


class Chunked:
    """Rows in blocks that end where they like, whatever was asked for; counts how often each row is read."""

    spec = None

    def __init__(self, rows, block_rows):
        self.rows, self.block_rows = rows, block_rows
        self.proj_dim = rows.shape[1]
        self.reads = np.zeros(len(rows), int)

    def __len__(self):
        return len(self.rows)

    def ids(self):
        return range(len(self.rows))

    def gaps(self):
        return ()

    def blocks(self, rows=4096):
        for first in range(0, len(self.rows), self.block_rows):
            part = self.rows[first : first + self.block_rows]
            self.reads[first : first + len(part)] += 1
            yield ArrayBlock(first, part, np.full(len(part), -1), np.zeros(len(part), np.uint32))


@pytest.fixture
def small_windows(monkeypatch):
    """256 rows a window, so that small pools have many."""
    monkeypatch.setattr(scan, "_WINDOW_BYTES", 1)


@pytest.mark.parametrize("block_rows", [1, 100, 255, 256, 257, 5000])
@pytest.mark.parametrize("selector", ["top", "round_robin"])
def test_block_boundaries_change_no_bit_of_the_result(block_rows, selector, gaussian, small_windows):
    pools, targets = [gaussian(1000), gaussian(1000)], [gaussian(4), gaussian(4)]
    for pool in pools:
        pool[500:700] = pool[:200]  # ties across windows
    options = {"count": 333, "selector": selector, "subtasks": ["a", "a", "b", "b"]}
    want = select(pools, targets, [1, 2], **options)
    got = select([Chunked(pools[0], block_rows), Chunked(pools[1], 37)], targets, [1, 2], **options)
    np.testing.assert_array_equal(got.influence, want.influence)
    assert got.ids == want.ids


def test_window_size_changes_no_bit_of_the_result(gaussian, monkeypatch):
    pool, targets = gaussian(1500), gaussian(4)
    want = select([pool], [targets], fraction=0.3)
    monkeypatch.setattr(scan, "_WINDOW_BYTES", 1)
    got = select([pool], [targets], fraction=0.3)
    np.testing.assert_array_equal(got.influence, want.influence)
    assert got.ids == want.ids


def test_every_row_is_read_once(gaussian, small_windows):
    source = Chunked(gaussian(1000), 77)
    select([source], [gaussian(3)], fraction=0.1, selector="round_robin", subtasks=["a", "b", "c"])
    np.testing.assert_array_equal(source.reads, 1)


@pytest.mark.parametrize("selector", ["top", "round_robin"])
def test_memory_grows_with_the_rows_and_not_with_rows_times_targets(selector, gaussian, small_windows):
    class Endless(Chunked):
        """The same 256 rows over and over, so that the pool itself takes no memory."""

        def __init__(self, n_rows):
            super().__init__(gaussian(256), 256)
            self.n_rows = n_rows

        def __len__(self):
            return self.n_rows

        def ids(self):
            return range(self.n_rows)

        def blocks(self, rows=4096):
            for first in range(0, self.n_rows, 256):
                yield ArrayBlock(first, self.rows, np.full(256, -1), np.zeros(256, np.uint32))

    targets = gaussian(200)

    def peak_bytes(n_rows):
        tracemalloc.start()
        select([Endless(n_rows)], [targets], count=50, selector=selector, reduce="max")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(256)  # what the first call imports and caches
    a_row = (peak_bytes(256 * 160) - peak_bytes(256 * 40)) / (256 * 120)
    assert a_row < 200, f"{a_row:.0f} bytes a row; 200 targets of float32 would be 800"


def test_stores_give_what_their_arrays_give(make_store, gaussian):
    pools, targets = [gaussian(300), gaussian(300)], [gaussian(6), gaussian(6)]
    names = ["x", "x", "y", "y", "y", "z"]
    stores = [make_store(f"pool{c}", rows, shard_rows=70) for c, rows in enumerate(pools)]
    target_stores = [make_store(f"target{c}", rows) for c, rows in enumerate(targets)]
    want = select(pools, targets, [2, 1], fraction=0.1, subtasks=names)
    got = select(stores, target_stores, [2, 1], fraction=0.1, subtasks=names)
    np.testing.assert_array_equal(got.influence, want.influence)
    assert got.ids == [f"s{i}" for i in want.positions]


def test_several_target_stores_of_a_checkpoint_follow_one_another(make_store, gaussian):
    pool, targets = gaussian(100), gaussian(7)
    parts = [make_store("a", targets[:3]), make_store("b", targets[3:])]
    names = ["a"] * 3 + ["b"] * 4
    got = select([make_store("pool", pool)], [parts], count=9, subtasks=names)
    np.testing.assert_array_equal(got.influence, select([pool], [targets], count=9, subtasks=names).influence)
    assert [p["store"] for p in got.record["targets"][0]["parts"]] == [p.spec.digest for p in parts]


def test_rows_that_say_nothing_are_never_selected_and_counted_by_reason(make_store, gaussian):
    pools = [gaussian(20), gaussian(20)]
    tokens = np.full(20, 5)
    tokens[3] = 0
    pools[0][3] = pools[1][3] = 0.0  # without labels, and zero for it
    pools[0][5] = np.nan  # at one checkpoint only
    pools[1][6] = 0.0
    stores = [make_store(f"pool{c}", rows, tokens=tokens) for c, rows in enumerate(pools)]
    result = select(stores, [gaussian(2), gaussian(2)], fraction=1.0)
    assert sorted(result.positions.tolist()) == [i for i in range(20) if i not in (3, 5, 6)]
    assert result.counts == {
        "pool": 20,
        "requested": 20,
        "selected": 17,
        "eligible": 17,
        "excluded_missing": 0,
        "excluded_no_labels": 1,
        "excluded_nonfinite": 1,
        "excluded_zero": 1,
    }
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.influence)), [3, 5, 6])
    assert not np.isnan(result.scores).any()


@pytest.mark.parametrize("selector", ["top", "round_robin", "random"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_bad_rows_of_arrays_are_found_without_flags(selector, bad, gaussian):
    pool = gaussian(30)
    pool[::3] = bad
    result = select([pool], [gaussian(2)], fraction=1.0, selector=selector, subtasks=["a", "b"])
    assert sorted(result.ids) == [i for i in range(30) if i % 3]
    assert result.counts["excluded_zero" if bad == 0.0 else "excluded_nonfinite"] == 10


def test_sketches_bring_their_token_counts(as_sketches, gaussian):
    pool = gaussian(10)
    tokens = np.arange(10)
    result = select([as_sketches(pool, tokens)], [as_sketches(gaussian(2))], fraction=1.0)
    assert result.counts["excluded_no_labels"] == 1
    assert -1.0 <= result.record["pool"]["spearman_label_tokens"] <= 1.0


@pytest.mark.parametrize("selector", ["top", "round_robin"])
def test_partial_stores_select_among_the_rows_that_all_have(selector, make_store, gaussian, small_windows):
    pools = [gaussian(900), gaussian(900)]
    there = [[range(300), range(400, 900)], [range(100, 700)]]
    stores = [
        make_store(f"pool{c}", rows, data={"rows": 900}, pieces=pieces, shard_rows=64)
        for c, (rows, pieces) in enumerate(zip(pools, there, strict=True))
    ]
    targets = [gaussian(2), gaussian(2)]
    with pytest.raises(errors.DatastoreIncompleteError, match=r"candidates\[0\]: .* lacks 100 rows \(300…399\)"):
        select(stores, targets, fraction=1.0)
    result = select(stores, targets, [1, 3], fraction=1.0, selector=selector, allow_partial=True)
    both = [*range(100, 300), *range(400, 700)]
    assert sorted(result.positions.tolist()) == both
    assert result.ids == [f"s{i}" for i in result.positions]
    assert result.counts["pool"] == 900
    assert result.counts["excluded_missing"] == 400
    want = select(pools, targets, [1, 3], fraction=1.0).influence
    np.testing.assert_allclose(result.influence[both], want[both], atol=1e-6, rtol=0)


def test_a_partial_target_store_is_refused_even_where_partial_pools_are_allowed(make_store, gaussian):
    target = make_store("target", gaussian(4), data={"rows": 5})
    with pytest.raises(errors.DatastoreIncompleteError, match=r"targets\[0\]: .* lacks 1 rows \(4…4\)"):
        select([gaussian(9)], [target], count=1, allow_partial=True)


def test_progress_rises_to_the_whole_pool(gaussian, small_windows):
    seen = []
    select([gaussian(700)], [gaussian(2)], count=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(256, 700), (512, 700), (700, 700)]


def test_the_record_measures_the_eligible_pool(gaussian):
    pool = gaussian(200)
    pool[7] = np.nan
    result = select([pool], [gaussian(3)], count=5)
    values = np.delete(result.influence, 7).astype(np.float64)
    measured = result.record["pool"]
    assert measured["mean"] == pytest.approx(values.mean())
    assert measured["sd"] == pytest.approx(values.std())
    assert measured["quantiles"]["0.5"] == pytest.approx(np.median(values))
    assert measured["spearman_label_tokens"] is None


def test_the_tie_to_length_is_the_rank_correlation_with_equals_sharing_their_rank(as_sketches, gaussian, rng):
    pool, target = gaussian(60), gaussian(1)
    tokens = rng.integers(1, 9, size=60)
    result = select([as_sketches(pool, tokens)], [target], count=1)

    def ranks(x):
        return [(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x]

    want = np.corrcoef(ranks(result.influence), ranks(tokens))[0, 1]
    assert result.record["pool"]["spearman_label_tokens"] == pytest.approx(want)


def test_the_tie_to_length_is_unknown_where_all_are_equally_long(as_sketches, gaussian):
    result = select([as_sketches(gaussian(9))], [gaussian(1)], count=1)
    assert result.record["pool"]["spearman_label_tokens"] is None
