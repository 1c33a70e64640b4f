"""Damage anywhere in a store is found and named, at any size and with any names; and any good part reads as it was."""

from __future__ import annotations

import gc
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradsift
from gradsift import Datastore, Gamma, ProjectionSpec, StoreSpec
from gradsift.datastore import _checksum, _io
from gradsift.datastore import format as fmt
from gradsift.datastore.spec_file import pack_spec, parse_spec
from gradsift.datastore.table import COLUMNS, Columns, RowTable, pack_table
from gradsift.errors import DatastoreCorruptError, DatastoreError


def test_a_change_of_any_byte_of_a_shard_is_found_and_named_and_costs_that_shard_or_block_only(stores):
    """Two shards of two rows; every byte of the first is changed in turn, of long runs of zeros each sixteenth."""
    stores.make(4, shard_rows=2)
    bad, good_shard = stores.shards()
    want = Datastore.open(stores.path).rows()
    good = bad.read_bytes()
    rng = np.random.default_rng(0)
    with open(bad, "r+b", buffering=0) as file:
        for offset in range(len(good)):
            if offset % 16 and not any(good[max(0, offset - 16) : offset + 16]):
                continue
            os.pwrite(file.fileno(), bytes([good[offset] ^ int(rng.integers(1, 256))]), offset)
            store = Datastore.open(stores.path, on_error="skip")
            kept = {row.tobytes(): b.first + i for b in store.blocks(on_error="skip") for i, row in enumerate(b.rows)}
            assert kept == {want[2].tobytes(): 2, want[3].tobytes(): 3}, offset
            (lost,) = store.damaged
            assert (lost.shard, lost.first, lost.stop) == (bad.name, 0, 2)
            assert bad.name in lost.reason
            assert ("block 0 at offset 4096 (rows 0 … 1)" in lost.reason) == (4096 <= offset < 8192)
            os.pwrite(file.fileno(), good[offset : offset + 1], offset)
    assert Datastore.open(stores.path).verify().ok
    assert good_shard.exists()


def test_a_cut_at_every_fifth_length_is_found_at_open(stores):
    stores.make(2)
    (shard,) = stores.shards()
    for length in range(shard.stat().st_size - 1, -1, -5):
        os.truncate(shard, length)
        with pytest.raises(DatastoreCorruptError, match=shard.name):
            Datastore.open(stores.path, verify="none")


def sparse_shard(path, spec, rows):
    """A shard of rows of zeros, most of which take no room on the disk. Its file's digest is left out."""
    header = fmt.ShardHeader(spec.digest, 2**40, rows, "float32", 65536, fmt.ID_INT64)
    flags = np.full(rows, 4, np.uint32)
    columns = Columns(*(np.ones(rows, dtype) for _, dtype in COLUMNS[:-1]), flags)
    table = pack_table([2**40 + i for i in range(rows)], columns)
    places = fmt.layout(header, len(table))
    block = _checksum.crc32c(bytes(header.block_bytes))
    last = places[1].size - (header.n_blocks - 1) * header.block_bytes
    crcs = [block] * (header.n_blocks - 1) + [_checksum.crc32c(bytes(last))]
    checksums = struct.pack(f"<{len(crcs)}I", *crcs).ljust(places[2].size, b"\0")
    parts = {0: fmt.pack_header(header), 2: checksums, 3: table}
    sections = tuple(
        fmt.Section(p.kind, p.offset, p.size, _checksum.crc32c(parts[i]) if i in parts else 0)
        for i, p in enumerate(places)
    )
    with open(path / header.file_name, "wb") as file:
        for i, raw in parts.items():
            file.seek(places[i].offset)
            file.write(raw)
        file.write(fmt.pack_footer(fmt.Footer(sections, bytes(32), fmt.shard_bytes(header, len(table)))))
    return path / header.file_name


def test_a_shard_of_more_than_four_gibibytes_and_rows_and_ids_beyond_two_to_the_32(stores):
    spec = stores.spec(proj_dim=65536)
    Datastore.create(stores.path, spec=spec, dtype="float32").finish()
    rows = 16_500  # 256 KiB each
    shard = sparse_shard(stores.path, spec, rows)
    assert shard.stat().st_size > 2**32
    store = Datastore.open(stores.path)
    assert store.gaps() == [range(2**40)]
    assert store.ids()[-1] == 2**40 + rows - 1
    assert not store.rows(2**40 + rows - 1, 2**40 + rows).any()
    with open(shard, "r+b") as file:
        file.seek(4096 + 16_400 * 262_144 + 5)
        file.write(b"\1")
    assert 4096 + 16_400 * 262_144 > 2**32
    with pytest.raises(DatastoreCorruptError, match=rf"block 4100 .*rows {2**40 + 16_400} … {2**40 + 16_403}"):
        Datastore.open(stores.path).rows(2**40 + 16_401, 2**40 + 16_402)
    assert not store.rows(2**40 + 16_396, 2**40 + 16_400).any()


def test_a_store_of_more_shards_than_a_process_may_have_handles_opens_and_lets_go_of_all_memory(stores, fault_layer):
    with fault_layer.installed(fault_layer.FaultLayer()):
        stores.make(200, shard_rows=1, dtype="float32")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        store = Datastore.open(stores.path, verify="full")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    np.testing.assert_array_equal(store.rows(), stores.sketches(200).rows)
    block = next(store.blocks())
    store.close()
    del store
    gc.collect()
    np.testing.assert_array_equal(block.rows, stores.sketches(200).rows[:1])  # a view keeps its shard alone mapped
    assert Path("/proc/self/maps").read_text().count(str(stores.path)) == 1
    del block
    assert str(stores.path) not in Path("/proc/self/maps").read_text()


def test_a_file_that_was_cut_before_it_was_mapped_is_refused(stores):
    stores.make(2)
    (shard,) = stores.shards()
    with open(shard, "rb") as file, pytest.raises(DatastoreCorruptError, match="cut while it was opened"):
        _io.map_file(file.fileno(), shard.stat().st_size + 1, "shard")


@pytest.mark.parametrize(
    "name", ["with space", "ünï✓", "x" * 200, "new\nline", "%s{0}", "-rf", os.fsdecode(b"\xff\xfe")]
)
def test_stores_with_odd_names_are_made_resumed_and_named_in_printable_messages(name, tmp_path, stores):
    stores.path = tmp_path / name
    stores.make(2)
    with Datastore.create(stores.path, spec=stores.spec(), resume=True) as writer:
        writer.append(["more"], stores.sketches(1))
    assert Datastore.open(stores.path, verify="full").ids() == ["id 0", "id 1", "more"]
    os.truncate(stores.shards()[0], 17)
    with pytest.raises(DatastoreCorruptError) as caught:
        Datastore.open(stores.path)
    assert str(caught.value).isprintable()


def test_long_and_odd_ids_come_back(stores):
    ids = ["", "\0", "x" * 1_000_000, "a/../../b", "\x1b[2J", "\U0010ffff", "e\u0301", "é", "\u202e"]
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        writer.append(ids, stores.sketches(len(ids)))
    assert Datastore.open(stores.path, verify="full").ids() == ids


WRITER = """
import sys
import numpy as np
from gradsift import Datastore, ProjectionSpec, StoreSpec
spec = StoreSpec(ProjectionSpec(proj_dim=256), data={"rows": 90})
with Datastore.create(sys.argv[1], spec=spec, dtype="float32", resume=True, shard_rows=3) as writer:
    for i in range(0, 90, 3):
        writer.append([f"id {j}" for j in range(i, i + 3)], np.repeat(np.arange(i, i + 3.0), 256).reshape(3, 256))
"""


def test_readers_see_whole_shards_only_while_another_process_writes_and_keep_what_they_opened(tmp_path):
    path = tmp_path / "store"
    env = {**os.environ, "PYTHONPATH": str(Path(gradsift.__file__).parents[1])}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=env)
    opened, sizes = [], []
    try:
        while not sizes or sizes[-1] < 90:
            assert writer.poll() in (None, 0)
            if not (path / "spec.json").exists():
                continue
            store = Datastore.open(path, verify="full")
            opened.append(store)
            sizes.append(len(store))
            assert len(store) % 3 == 0
            assert store.gaps() == ([] if len(store) == 90 else [range(len(store), 90)])
            np.testing.assert_array_equal(store.rows()[:, 0], np.arange(len(store)))
    finally:
        writer.wait(timeout=60)
    assert sizes == sorted(sizes)
    for size, store in zip(sizes, opened, strict=True):
        assert len(store.ids()) == size


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SPECS = st.builds(
    StoreSpec,
    st.builds(ProjectionSpec, st.sampled_from([256, 65536]), st.integers(0, 2**64 - 1)),
    st.none() | st.builds(Gamma.adam, eps=st.floats(1e-30, 0.5), step=st.integers(1, 2**62)),
    st.lists(st.tuples(st.text(), st.lists(st.integers(0, 2**40), max_size=4)), max_size=4, unique_by=lambda p: p[0]),
    st.dictionaries(st.text(), PLAIN, max_size=4),
    st.dictionaries(st.text().filter(lambda key: key != "rows"), PLAIN, max_size=4),
    st.text(),
)


@settings(max_examples=40, deadline=None)
@given(SPECS, st.sampled_from(sorted(fmt.ROW_DTYPES)))
def test_any_spec_comes_back_from_its_bytes(spec, dtype):
    packed = pack_spec(spec, dtype)
    found, found_dtype = parse_spec(packed, "spec.json")
    assert (found.digest, found_dtype) == (spec.digest, dtype)
    assert pack_spec(found, dtype) == packed


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 20), st.sampled_from([fmt.ID_INT64, fmt.ID_UTF8]))
def test_any_bytes_are_a_row_table_of_these_very_bytes_or_refused(raw, rows, kind):
    try:
        found = RowTable(memoryview(raw), rows, kind, "shard")
        ids = found.ids(0, rows)
    except DatastoreError:
        return
    if rows:
        assert pack_table(ids, found.columns) == raw


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, fmt.MAX_FIRST), st.integers(1, fmt.MAX_SHARD_ROWS), st.sampled_from(sorted(fmt.ROW_DTYPES)),
    st.sampled_from([1, 2]), st.binary(min_size=16, max_size=16),
)  # fmt: skip
def test_any_header_comes_back_from_its_bytes_and_from_no_shorter_a_file(first, rows, dtype, kind, digest):
    header = fmt.ShardHeader(digest.hex(), first, rows, dtype, 256, kind)
    packed, length = fmt.pack_header(header), fmt.shard_bytes(header, 0)
    assert fmt.parse_header(packed, "shard", length) == header
    with pytest.raises(DatastoreCorruptError, match="rows"):
        fmt.parse_header(packed, "shard", rows * header.row_bytes - 1)
