"""What a store says of itself, and rows by number."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore import _ranges
from gradsift.errors import DatastoreIncompleteError


def test_an_empty_store_opens(stores):
    Datastore.create(stores.path, spec=stores.spec()).finish()
    store = Datastore.open(stores.path, verify="full")
    assert len(store) == 0
    assert store.ids() == []
    assert list(store.blocks()) == []
    assert store.rows().shape == (0, 256)
    assert [column.shape for column in store.metadata().values()] == [(0,)] * 5
    assert store.metadata()["tokens"].dtype == np.int64
    assert store.positions().tolist() == []
    assert store.complete
    assert store.verify().ok
    assert store.info()["rows"] == 0
    with pytest.raises(IndexError):
        store.rows(0, 1)


def test_an_unfinished_store_is_not_complete(stores):
    Datastore.create(stores.path, spec=stores.spec(rows=3)).finish()
    store = Datastore.open(stores.path)
    assert not store.complete
    assert store.gaps() == [range(3)]
    assert "missing: rows 0 … 2" in str(store.verify())


def test_rows_around_gaps_are_read_by_number_and_gaps_are_named(stores):
    sketches = stores.sketches(9)
    with Datastore.create(stores.path, spec=stores.spec(rows=9), dtype="float32", shard_rows=3) as writer:
        writer.append(["a", "b"], sketches[1:3], first=1)
        writer.append(["c", "d"], sketches[5:7], first=5)
    store = Datastore.open(stores.path)
    assert store.gaps() == [range(1), range(3, 5), range(7, 9)]
    assert store.positions().tolist() == [1, 2, 5, 6]
    assert [(block.first, block.ids) for block in store.blocks()] == [(1, ["a", "b"]), (5, ["c"]), (6, ["d"])]
    np.testing.assert_array_equal(store.rows(5, 7), sketches.rows[5:7])
    with pytest.raises(DatastoreIncompleteError, match=r"none of 0 … 0, 3 … 4"):
        store.rows(0, 6)


def test_info_is_plain_values(stores):
    stores.make(5, shard_rows=2)
    info = json.loads(json.dumps(Datastore.open(stores.path).info()))
    assert info["rows"] == 5
    assert info["shards"] == 3
    assert info["dtype"] == "bfloat16"
    assert info["id_kind"] == "str"
    assert info["bytes"] == sum(path.stat().st_size for path in stores.shards())
    assert info["id"] == stores.spec().digest
    assert info["spec"]["projection"]["proj_dim"] == 256


def test_arrays_outlive_the_store(stores):
    stores.make(3, dtype="float32")
    with Datastore.open(stores.path) as store:
        block = next(store.blocks())
    assert len(store) == 0
    np.testing.assert_array_equal(block.rows, stores.sketches(3).rows)
    assert not block.rows.flags.writeable


@pytest.mark.parametrize(("rows", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_blocks_of_no_rows_are_refused(stores, rows, error):
    stores.make(1)
    with pytest.raises(error, match="rows: expected"):
        Datastore.open(stores.path).blocks(rows)


def test_choices_are_checked(stores):
    stores.make(1)
    with pytest.raises(ValueError, match="verify"):
        Datastore.open(stores.path, verify="maybe")
    with pytest.raises(ValueError, match="on_error"):
        Datastore.open(stores.path, on_error="ignore")
    with pytest.raises(ValueError, match="on_error"):
        Datastore.open(stores.path).blocks(on_error="ignore")


def test_each_block_is_checked_once(stores, monkeypatch):
    from gradsift.datastore import shard

    stores.make(5000)  # 2048 rows a block
    store = Datastore.open(stores.path)
    seen = []
    real = shard.crc32c_blocks
    monkeypatch.setattr(shard, "crc32c_blocks", lambda data, size: seen.append(len(data)) or real(data, size))
    store.rows(0, 10)
    assert seen == [1 << 20]
    store.rows(5, 2048)
    assert seen == [1 << 20]
    store.rows()
    assert len(seen) == 3


def test_blocks_that_are_read_together_are_checked_together(stores, monkeypatch):
    from gradsift.datastore import shard

    stores.make(5000)
    seen = []
    real = shard.crc32c_blocks
    monkeypatch.setattr(shard, "crc32c_blocks", lambda data, size: seen.append(len(data)) or real(data, size))
    store = Datastore.open(stores.path)
    assert [len(block.rows) for block in store.blocks(5000)] == [4096, 904]
    assert [size >> 20 for size in seen] == [2, 0], "a call for every shard, of two blocks and of part of one"


def test_two_windows_beyond_the_one_that_is_read_are_asked_for_once(stores, monkeypatch):
    from gradsift.datastore._io import MappedFile

    row_bytes = 2 * 256
    stores.make(5000, shard_rows=2048)
    store = Datastore.open(stores.path)
    sizes = []
    ask = MappedFile.ask
    monkeypatch.setattr(
        MappedFile, "ask", lambda file, start, stop: sizes.append((stop - start) // row_bytes) or ask(file, start, stop)
    )
    asked = [sum(sizes) for _ in store.blocks(1024)]
    assert asked == [3072, 4096, 5000, 5000, 5000]
    list(store.blocks(1024))
    assert sum(sizes) == 5000


def test_other_files_in_the_directory_are_no_rows(stores):
    stores.make(2)
    (stores.path / "notes.txt").write_text("mine")
    (stores.path / ".tmp-shard").write_text("half a shard")
    assert len(Datastore.open(stores.path, verify="full")) == 2


def test_the_package_of_the_datastore_imports_no_torch():
    code = "import sys, gradsift.datastore; print([m for m in sys.modules if m.startswith(('torch', 'transformers'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_row_ranges_agree_with_a_set_of_rows():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ranges, rows = _ranges.RowRanges(), set()
        for start in rng.permutation(12):
            part = range(int(start) * 3, int(start) * 3 + int(rng.integers(0, 4)))
            ranges.add(part.start, part.stop)
            rows |= set(part)
            a, b = sorted(int(x) for x in rng.integers(0, 40, 2))
            assert [r for gap in ranges.missing(a, b) for r in gap] == [r for r in range(a, b) if r not in rows]
            assert ranges.count(a, b) == len(rows & set(range(a, b)))
            there = ranges.overlap(a, b)
            assert (there[0] if there else None) == min(rows & set(range(a, b)), default=None)
            assert ranges.stop == max(rows, default=-1) + 1
