"""Converting a store keeps all but the bits of its rows, goes on after a stop, and mixes no sources."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gradsift
from gradsift import Datastore, ops
from gradsift.datastore import FLAG_NONFINITE, FLAG_ZERO, convert
from gradsift.datastore import format as fmt
from gradsift.datastore._io import Directory
from gradsift.datastore.rows import decode_rows, encode_rows
from gradsift.errors import DatastoreCorruptError, DatastoreError, DatastoreSpaceError, SpecMismatchError

SEED = 77
DTYPES = tuple(fmt.ROW_DTYPES)


def make(stores, dtype="float32", n=30, shard_rows=8, **changes):
    """Rows 8 … n − 1 of n, so that there is a gap; with zeros, a NaN, an Inf."""
    sketches = stores.sketches(n)
    sketches.rows[9], sketches.rows[10, 3], sketches.rows[11, 4] = 0, np.nan, np.inf
    sketches.tokens[12] = 0
    spec = stores.spec(rows=n, seed=SEED)
    with Datastore.create(stores.path, **{"spec": spec, "dtype": dtype, "shard_rows": shard_rows, **changes}) as writer:
        writer.append([f"id {i}" for i in range(8, n)], sketches[8:], first=8)
    return stores.path


def files(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(DTYPES, 2)))
def test_rows_are_those_of_the_source_stored_anew_and_the_rest_is_kept(stores, tmp_path, source, target):
    path = make(stores, source)
    given = Datastore.open(path)
    done = convert(path, tmp_path / "out", dtype=target)
    assert done.dtype == target
    assert done.verify().ok
    assert done.spec == given.spec
    assert done.gaps() == given.gaps() == [range(8)]
    assert done.ids() == given.ids()
    for name, column in given.metadata().items():
        np.testing.assert_array_equal(done.metadata()[name], column)
    assert done.metadata()["flags"][1:4].tolist() == [FLAG_ZERO, FLAG_NONFINITE, FLAG_NONFINITE]
    rows = given.rows(8, 30)
    want = decode_rows(encode_rows(rows, target, given.ids(), seed=SEED)[0], target, seed=SEED)
    np.testing.assert_array_equal(done.rows(8, 30), want)
    assert [p.name for p in sorted(tmp_path.glob("out/*.gs"))] == [p.name for p in stores.shards()]


def test_norms_of_the_first_quantisation_go_along(stores, tmp_path):
    make(stores, "int8")
    convert(stores.path, tmp_path / "out", dtype="int4")
    norms = [np.concatenate([b.norms for b in Datastore.open(p).blocks()]) for p in (stores.path, tmp_path / "out")]
    np.testing.assert_array_equal(norms[1], norms[0])
    rows = stores.sketches(30).rows[13:]
    np.testing.assert_array_equal(norms[1][5:], ops.quantise_rows(rows, bits=1, seed=0).norms)


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_widening_and_narrowing_again_gives_the_bytes_that_were_there(stores, tmp_path, narrow):
    make(stores, narrow)
    convert(stores.path, tmp_path / "wide", dtype="float32")
    convert(tmp_path / "wide", tmp_path / "narrow", dtype=narrow)
    assert files(tmp_path / "narrow") == stores.files()


def test_an_empty_store_is_converted(stores, tmp_path):
    Datastore.create(stores.path, spec=stores.spec()).finish()
    assert len(convert(stores.path, tmp_path / "out", dtype="int1")) == 0


@pytest.mark.parametrize("target", ["bfloat16", "int4"])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_killed_conversion_goes_on_to_the_bytes_of_an_undisturbed_one(stores, tmp_path, target, shards):
    make(stores)
    convert(stores.path, tmp_path / "undisturbed", dtype=target)
    env = {**os.environ, "PYTHONPATH": str(Path(gradsift.__file__).parents[1])}
    script = Path(__file__).parent / "converting.py"
    command = [sys.executable, script, stores.path, tmp_path / "out", target, str(shards)]
    assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("*.gs"))) == shards
    convert(stores.path, tmp_path / "out", dtype=target)
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_a_conversion_that_runs_out_of_room_goes_on_once_there_is_some(stores, tmp_path, monkeypatch):
    make(stores)
    convert(stores.path, tmp_path / "undisturbed", dtype="int8")
    real, calls = Directory.publish, []

    def full(self, name, *arguments, **options):
        calls.append(name)
        if len(calls) == 3:
            raise DatastoreSpaceError("no room")
        return real(self, name, *arguments, **options)

    monkeypatch.setattr(Directory, "publish", full)
    with pytest.raises(DatastoreSpaceError):
        convert(stores.path, tmp_path / "out", dtype="int8")
    done = []
    convert(stores.path, tmp_path / "out", dtype="int8", progress=done.append)
    assert done == [8, 8, 6]
    assert len(set(calls)) == len(calls) - 1  # what was published is not made again
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_converting_again_changes_nothing(stores, tmp_path):
    make(stores)
    convert(stores.path, tmp_path / "out", dtype="int1")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    convert(stores.path, tmp_path / "out", dtype="int1")
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == before


def test_a_store_of_another_spec_or_dtype_is_no_place_to_convert_to(stores, tmp_path):
    make(stores)
    convert(stores.path, tmp_path / "out", dtype="int8")
    with pytest.raises(SpecMismatchError, match="dtype: 'int8' against 'int4'"):
        convert(stores.path, tmp_path / "out", dtype="int4")
    with pytest.raises(SpecMismatchError, match="dtype: 'float32' against 'int4'"):
        convert(stores.path, stores.path, dtype="int4")
    stores.path = tmp_path / "other"
    make(stores, spec=stores.spec(rows=30, seed=SEED + 1))
    with pytest.raises(SpecMismatchError, match=r"projection\.seed: 77 against 78"):
        convert(stores.path, tmp_path / "out", dtype="int8")


def test_shards_of_another_source_of_the_same_spec_are_found(stores, tmp_path):
    make(stores)
    convert(stores.path, tmp_path / "coarse", dtype="int4")
    convert(stores.path, tmp_path / "out", dtype="int8")
    before = files(tmp_path / "out")
    with pytest.raises(SpecMismatchError, match=r"shard-0.*expected what .*coarse' gives as int8, .*numbers of row 8"):
        convert(tmp_path / "coarse", tmp_path / "out", dtype="int8")
    stores.path = tmp_path / "ids"
    sketches, spec = stores.sketches(30), stores.spec(rows=30, seed=SEED)
    with Datastore.create(stores.path, spec=spec, dtype="float32", shard_rows=8) as writer:
        writer.append([f"other {i}" for i in range(8, 30)], sketches[8:], first=8)
    with pytest.raises(SpecMismatchError, match="row table of rows 8 … 15"):
        convert(stores.path, tmp_path / "out", dtype="int8")
    stores.path = tmp_path / "shards"
    make(stores, shard_rows=10)
    with pytest.raises(SpecMismatchError, match="rows 8 … 15, which are no shard of it"):
        convert(stores.path, tmp_path / "out", dtype="int8")
    assert files(tmp_path / "out") == before


def test_damage_in_the_source_is_reported_and_not_converted(stores, tmp_path):
    make(stores)
    bad = stores.shards()[1]
    raw = bytearray(bad.read_bytes())
    raw[4096 + 100] ^= 1
    bad.write_bytes(raw)
    with pytest.raises(DatastoreCorruptError, match=f"{bad.name}.*block 0"):
        convert(stores.path, tmp_path / "out", dtype="int8")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [stores.shards()[0].name, "spec.json"]


def test_a_row_that_the_dtype_cannot_hold_is_named(stores, tmp_path):
    sketches = stores.sketches(3)
    sketches.rows[1] *= 1e30
    with Datastore.create(stores.path, spec=stores.spec(), dtype="float32") as writer:
        writer.append(["a", "b", "c"], sketches)
    for dtype in ("float16", "int8"):
        with pytest.raises(DatastoreError, match=f"shard-0.*cannot be converted to {dtype}.*for id 'b'"):
            convert(stores.path, tmp_path / dtype, dtype=dtype)
        assert sorted(p.name for p in (tmp_path / dtype).iterdir()) == ["spec.json"]


@pytest.mark.parametrize(
    ("dtype", "match"), [("int2", "dtype: expected one of"), ("float32", "expected another than that of")]
)
def test_dtypes_that_are_none_or_the_same_are_refused_before_anything_is_made(stores, tmp_path, dtype, match):
    make(stores)
    with pytest.raises(ValueError, match=match):
        convert(stores.path, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_shard(stores, tmp_path):
    n = 20_000  # 41 MB in float32, one shard
    with Datastore.create(stores.path, spec=stores.spec(proj_dim=512), dtype="bfloat16", shard_rows=n) as writer:
        writer.append(np.arange(n), np.ones((n, 512), np.float32))
    tracemalloc.start()
    convert(stores.path, tmp_path / "out", dtype="float32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(list((tmp_path / "out").glob("*.gs"))) == 1
    assert peak < 20e6
