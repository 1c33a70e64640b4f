"""Stores merged, appended, cut down; what dead writers left, removed."""

from __future__ import annotations

import fcntl
import os
import shutil

import numpy as np
import pytest

from gradsift import Datastore, ProjectionSpec, StoreSpec
from gradsift.datastore import append_stores, merge_stores, remove_leftovers, subset_store
from gradsift.datastore._io import Directory
from gradsift.errors import (
    DatastoreCorruptError,
    DatastoreError,
    DatastoreExistsError,
    DatastoreIncompleteError,
    SpecMismatchError,
)

N = 12


@pytest.fixture
def part(stores, tmp_path):
    """Makes a store of some rows of one and the same whole."""
    whole = stores.sketches(N)

    def make(name, rows, *, ids=None, sketches=whole, shard_rows=4, **options):
        options = {"spec": stores.spec(rows=N), **options}
        with Datastore.create(tmp_path / name, shard_rows=shard_rows, **options) as writer:
            names = ids or [f"id {row}" for row in rows]
            writer.append(names, sketches[rows.start : rows.stop], first=rows.start)
        return tmp_path / name

    return make


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("link", [True, False])
def test_merged_parts_are_the_store_that_one_writer_makes(part, tmp_path, link):
    one = part("one", range(4))
    rest = part("rest", range(4, N))
    report = merge_stores(tmp_path / "all", [rest, one], link=link)
    assert files(tmp_path / "all") == files(part("alone", range(N)))
    assert len(report.placed) == 3
    assert report.gaps == ()
    shard = next(one.glob("*.gs"))
    assert os.path.samefile(shard, tmp_path / "all" / shard.name) == link
    again = merge_stores(tmp_path / "all", [rest, one])
    assert (again.placed, len(again.duplicates)) == ((), 3)


def test_a_store_that_is_there_takes_more_shards_and_names_what_is_missing(part):
    one = part("one", range(4))
    report = merge_stores(one, [part("last", range(8, N))])
    assert report.gaps == (range(4, 8),)
    assert "missing: rows 4 … 7" in str(report)
    assert Datastore.open(one, verify="full").positions().tolist() == [*range(4), *range(8, N)]


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        (range(2, 6), {}, r"both hold rows 2 … 3, which are equal"),
        (
            range(2, 6),
            {"ids": ["id 2", "x", "id 4", "id 5"]},
            r"differ in the id of row 3 \('id 3' against 'x'\)",
        ),
        (range(4), {"ids": ["id 0", "id 1", "id 2", "x"]}, r"they differ in the id of row 3"),
    ],
)
def test_overlaps_are_named_and_nothing_is_placed(part, tmp_path, rows, options, says):
    one = part("one", range(4))
    other = part("other", rows, **options)
    with pytest.raises(DatastoreExistsError, match=says) as caught:
        merge_stores(tmp_path / "all", [one, other])
    assert str(next(one.glob("*.gs"))) in str(caught.value)
    assert str(next(other.glob("*.gs"))) in str(caught.value)
    assert not list((tmp_path / "all").glob("*.gs"))


def test_other_numbers_and_other_notes_of_the_same_rows_are_told_apart(part, stores, tmp_path):
    one = part("one", range(4))
    with pytest.raises(DatastoreExistsError, match="differ in the numbers of row 0"):
        merge_stores(tmp_path / "all", [one, part("numbers", range(4), sketches=stores.sketches(N, seed=1))])
    with pytest.raises(DatastoreExistsError, match="differ in what is known of their rows"):
        merge_stores(tmp_path / "all", [one, part("notes", range(4), sketches=stores.sketches(N).rows)])


def test_an_id_in_two_rows_is_named(part, tmp_path):
    one, other = part("one", range(4)), part("other", range(4, 8), ids=["id 4", "id 1", "id 6", "id 7"])
    with pytest.raises(DatastoreExistsError, match=r"got 'id 1' in row 1 of .*one.* and in row 5 of .*other"):
        merge_stores(tmp_path / "all", [one, other])
    assert not list((tmp_path / "all").glob("*.gs"))


def test_stores_of_other_specs_or_dtypes_are_refused_with_the_fields(part, stores, tmp_path):
    one = part("one", range(4))
    with pytest.raises(SpecMismatchError, match=r"projection.seed: 0 against 1"):
        merge_stores(tmp_path / "all", [one, part("seed", range(4, 8), spec=stores.spec(rows=N, seed=1))])
    with pytest.raises(SpecMismatchError, match=r"dtype: 'bfloat16' against 'float16'"):
        merge_stores(tmp_path / "all", [one, part("dtype", range(4, 8), dtype="float16")])


@pytest.mark.parametrize("full", [False, True])
def test_a_damaged_shard_is_not_placed(part, tmp_path, full):
    one, other = part("one", range(4)), part("other", range(4, 8))
    shard = next(other.glob("*.gs"))
    raw = bytearray(shard.read_bytes())
    raw[5000] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(DatastoreCorruptError, match=shard.name):
        merge_stores(tmp_path / "all", [one, other], full=full)
    assert not list((tmp_path / "all").glob("*.gs"))


def test_names_that_a_killed_merge_placed_are_synced_by_the_next_one(part, tmp_path, monkeypatch):
    one, target = part("one", range(N)), str(tmp_path / "all")
    merge_stores(target, [one])
    synced = []
    monkeypatch.setattr(Directory, "sync", lambda self: synced.append(self.path))
    assert merge_stores(target, [one]).placed == ()
    assert target in synced


def test_only_local_directories_are_merged(part, tmp_path):
    one = part("one", range(N))
    with pytest.raises(ValueError, match=r"path: expected a local directory.*'memory://b/s'"):
        merge_stores("memory://b/s", [one])
    with pytest.raises(ValueError, match=r"sources: expected a local directory.*'s3://b/s'"):
        merge_stores(tmp_path / "all", [one, "s3://b/s"])
    assert not (tmp_path / "all").exists()


def test_new_samples_follow_the_last_row_of_an_open_store(part):
    open_ended = StoreSpec(ProjectionSpec(256), data={"template": "t"})
    more = StoreSpec(ProjectionSpec(256), data={"template": "t", "rows": 4, "digest": "d"})
    store = part("store", range(4), spec=open_ended)
    new = part("new", range(4), spec=more, ids=list("abcd"))
    identity = Datastore.open(store).id
    assert append_stores(store, [new]) == 4
    assert append_stores(store, [new]) == 0  # an interrupted call can be repeated
    grown = Datastore.open(store, verify="full")
    assert grown.id == identity
    assert grown.ids() == [*(f"id {i}" for i in range(4)), *"abcd"]
    np.testing.assert_array_equal(grown.rows(4, 8), Datastore.open(new).rows())
    with pytest.raises(DatastoreIncompleteError, match=r"none of rows 1 … 3"):
        append_stores(store, [part("unfinished", range(1), spec=more, ids=["e"])])


def test_an_id_with_other_numbers_is_not_appended(part, stores):
    spec = StoreSpec(ProjectionSpec(256))
    store = part("store", range(4), spec=spec)
    clash = part("clash", range(2), spec=spec, ids=["new", "id 0"], sketches=stores.sketches(N, seed=9))
    before = files(store)
    with pytest.raises(DatastoreExistsError, match=r"got 'id 0' of .* with other numbers .* nothing was added"):
        append_stores(store, [part("fine", range(2), spec=spec, ids=["x", "y"]), clash])
    with pytest.raises(DatastoreExistsError, match="ids of one kind, got integers and strings"):
        append_stores(store, [part("numbers", range(2), spec=spec, ids=[7, 8])])
    assert files(store) == before


def test_a_row_that_two_sources_share_is_appended_once(part, stores):
    spec = StoreSpec(ProjectionSpec(256))
    store = part("store", range(2), spec=spec)
    whole = stores.sketches(N)
    sources = [part("a", range(3), spec=spec, ids=["x", "id 1", "y"], sketches=whole[[5, 1, 6]])]
    sources += [part("b", range(2), spec=spec, ids=["y", "z"], sketches=whole[[6, 7]])]
    assert append_stores(store, sources) == 3
    grown = Datastore.open(store, verify="full")
    assert grown.ids() == ["id 0", "id 1", "x", "y", "z"]
    np.testing.assert_array_equal(
        grown.rows()[2:], np.concatenate([Datastore.open(p).rows() for p in sources])[[0, 2, 4]]
    )


def test_a_store_that_counts_its_rows_is_extended_in_a_new_one(part, tmp_path):
    def spec(rows, digest, template="t"):
        return StoreSpec(ProjectionSpec(256), data={"rows": rows, "digest": digest, "template": template})

    store = part("store", range(6), spec=spec(6, "a"))
    new = part("new", range(3), spec=spec(3, "b"), ids=list("abc"))
    before = files(store)
    with pytest.raises(SpecMismatchError, match=r"got \['rows', 'digest'\]; name a new store"):
        append_stores(store, [new])
    assert append_stores(store, [new], out=tmp_path / "out") == 3
    assert append_stores(store, [new], out=tmp_path / "out") == 3
    assert files(store) == before
    both = Datastore.open(tmp_path / "out", verify="full")
    assert both.complete
    assert both.ids() == [*(f"id {i}" for i in range(6)), *"abc"]
    parts = [{"id": Datastore.open(path).id, "rows": n} for path, n in ((store, 6), (new, 3))]
    assert dict(both.spec.data) == {"rows": 9, "template": "t", "parts": parts}
    np.testing.assert_array_equal(both.rows(), np.concatenate([Datastore.open(p).rows() for p in (store, new)]))
    other = part("template", range(3), spec=spec(3, "b", template="u"), ids=list("xyz"))
    with pytest.raises(SpecMismatchError, match=r"data.template: 't' against 'u'"):
        append_stores(store, [other], out=tmp_path / "none")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "int1"])
def test_a_subset_has_the_bits_and_notes_of_its_rows_in_their_order(part, tmp_path, dtype):
    store = part("store", range(N), dtype=dtype)
    rows = [9, 2, 3, 7, 3, 11]
    assert subset_store(store, tmp_path / "by rows", rows=rows, shard_rows=3) == 5
    source, subset = Datastore.open(store), Datastore.open(tmp_path / "by rows", verify="full")
    order = sorted(set(rows))
    assert subset.ids() == [f"id {row}" for row in order]
    np.testing.assert_array_equal(subset.rows(), source.rows()[order])
    for name, column in subset.metadata().items():
        np.testing.assert_array_equal(column, source.metadata()[name][order])
    assert subset.spec.data["subset_of"] == source.id
    subset_store(store, tmp_path / "by ids", ids=[f"id {row}" for row in rows], shard_rows=3)
    assert files(tmp_path / "by ids") == files(tmp_path / "by rows")
    next((tmp_path / "by ids").glob("shard-000000000000003-*")).unlink()
    subset_store(store, tmp_path / "by ids", rows=rows, shard_rows=3)  # goes on where it stopped
    assert files(tmp_path / "by ids") == files(tmp_path / "by rows")


def test_a_subset_of_rows_that_are_not_there_is_refused(part, tmp_path):
    store = part("store", range(4, 8))
    for wrong, says in (
        ({"ids": ["id 4", "id 1"]}, r"got 'id 1' \(1 are not there\)"),
        ({"rows": [4, 8, 9]}, r"got 8 \(2 are not there\)"),
        ({}, "expected one of the two"),
        ({"ids": ["id 4"], "rows": [4]}, "expected one of the two"),
    ):
        with pytest.raises(ValueError, match=says):
            subset_store(store, tmp_path / "out", **wrong)
    for wrong in (np.array([True, False, True, False]), [4.0]):
        with pytest.raises(TypeError, match="rows: expected row numbers, got an array of"):
            subset_store(store, tmp_path / "out", rows=wrong)
    assert not (tmp_path / "out").exists()


def test_what_dead_writers_left_is_removed_and_what_the_living_hold_is_not(part):
    store = part("store", range(4))
    names = [".tmp-" + "0" * 32, f".claim-{0:015d}-{4:08d}"]
    living = ".claim-000000000000004-00000004"
    for name in (*names, living):
        (store / name).write_text("half")
    before = files(store)
    with open(store / living) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_leftovers(store, dry_run=True) == sorted(names)
        assert files(store) == before
        assert remove_leftovers(store) == sorted(names)
        assert sorted(files(store)) == sorted(set(before) - set(names))
    assert remove_leftovers(store) == [living]
    shutil.rmtree(store)
    store.mkdir()
    (store / names[0]).write_text("of something else")
    with pytest.raises(DatastoreError, match=r"spec\.json"):
        remove_leftovers(store)
    assert (store / names[0]).exists()
