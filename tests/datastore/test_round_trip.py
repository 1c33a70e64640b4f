"""What was appended is what is read, for any dtype, size, ids, batches and shards."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradsift import Datastore, ProjectionSpec, Sketches, StoreSpec
from gradsift.datastore import FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO
from gradsift.datastore.rows import decode_rows, encode_rows

TEXT_IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
INT_IDS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def cases(draw):
    ids = draw(st.one_of(st.lists(TEXT_IDS, max_size=40, unique=True), st.lists(INT_IDS, max_size=40, unique=True)))
    n = len(ids)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = (rng.integers(-127, 128, (n, 256)) / 8).astype(np.float32)  # exact in all dtypes
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    sketches = Sketches(rows, rng.random(n), rng.random(n), rng.random(n).astype("f4"), rng.integers(0, 9, n))
    return ids, sketches, [0, *cuts, n], draw(st.sampled_from(["float32", "float16", "bfloat16"]))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.integers(1, 50), st.integers(1, 50))
def test_any_store_reads_as_what_was_appended(case, shard_rows, block_rows):
    ids, sketches, cuts, dtype = case
    with tempfile.TemporaryDirectory() as folder:
        spec = StoreSpec(ProjectionSpec(proj_dim=256), data={"rows": len(ids)})
        with Datastore.create(f"{folder}/s", spec=spec, dtype=dtype, shard_rows=shard_rows) as writer:
            for start, stop in pairwise(cuts):
                writer.append(ids[start:stop], sketches[start:stop])
        store = Datastore.open(f"{folder}/s", verify="full")
        assert store.complete
        assert len(store) == len(ids)
        assert store.ids() == ids
        np.testing.assert_array_equal(store.rows(), sketches.rows)
        known = store.metadata()
        for name in ("grad_norm", "gamma_norm", "tokens", "loss"):
            np.testing.assert_array_equal(known[name], getattr(sketches, name))
        blocks = list(store.blocks(block_rows))
        assert [i for block in blocks for i in block.ids] == ids
        for block in blocks:
            assert 1 <= len(block) <= block_rows
            part = slice(block.first, block.first + len(block))
            np.testing.assert_array_equal(block.rows, sketches.rows[part])
            np.testing.assert_array_equal(block.tokens, sketches.tokens[part])
            np.testing.assert_array_equal(block.flags, known["flags"][part])


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_files_do_not_depend_on_batches_or_their_order(case, shard_rows, random):
    ids, sketches, cuts, dtype = case
    spec = StoreSpec(ProjectionSpec(proj_dim=256), data={"rows": len(ids)})
    files = []
    with tempfile.TemporaryDirectory() as folder:
        batches = list(pairwise(cuts))
        random.shuffle(batches)
        for name, parts in (("whole", [(0, len(ids))]), ("shuffled", batches)):
            path = Path(folder) / name
            with Datastore.create(path, spec=spec, dtype=dtype, shard_rows=shard_rows) as writer:
                for start, stop in parts:
                    writer.append(ids[start:stop], sketches[start:stop], first=start)
            files.append({p.name: p.read_bytes() for p in path.iterdir()})
    assert files[0] == files[1]


@pytest.mark.parametrize("rows", [2047, 2048, 2049, 4096])
def test_blocks_of_one_mebibyte_end_where_they_should(stores, rows):
    stores.make(rows)  # 512 bytes a row: 2048 rows a block
    want = stores.sketches(rows).rows
    store = Datastore.open(stores.path, verify="full")
    np.testing.assert_array_equal(store.rows(), decode_rows(encode_rows(want, "bfloat16", range(rows))[0], "bfloat16"))
    np.testing.assert_array_equal(store.rows(rows - 2, rows), store.rows()[-2:])


def bfloat16(x):
    """Rounded to nearest even by the definition, in exact integers."""
    bits = int(np.float32(x).view(np.uint32))
    low, up = bits & 0xFFFF, bits >> 16
    return up + (low > 0x8000 or (low == 0x8000 and up & 1))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_bfloat16_rounds_to_nearest_even(values):
    row = np.zeros((1, 256), np.float32)
    row[0, : len(values)] = np.clip(values, -3.3e38, 3.3e38)
    row[0, -1] = 1.0
    stored, _ = encode_rows(row, "bfloat16", ["x"])
    assert stored.numbers[0].tolist() == [bfloat16(x) for x in row[0]]


def test_bfloat16_keeps_every_nan_a_nan_and_every_infinity():
    bits = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000, 0x7F800000, 0xFF800000], np.uint32)
    row = np.ones((1, 256), np.float32)
    row[0, :7] = bits.view(np.float32)
    stored, flags = encode_rows(row, "bfloat16", ["x"])
    back = decode_rows(stored, "bfloat16")[0]
    assert np.isnan(back[:5]).all()
    np.testing.assert_array_equal(back[5:7], [np.inf, -np.inf])
    np.testing.assert_array_equal(np.signbit(back[:5]), np.signbit(row[0, :5]))
    assert flags.tolist() == [FLAG_NONFINITE]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_flags_are_set_from_the_data(dtype, stores):
    sketches = stores.sketches(5)
    sketches.rows[1, 17] = np.nan
    sketches.rows[2, 3] = -np.inf
    sketches.rows[3] = 0
    sketches.rows[3, ::2] = -0.0
    sketches.tokens[3] = 0
    sketches.tokens[4] = 0
    with Datastore.create(stores.path, spec=stores.spec(), dtype=dtype) as writer:
        writer.append(range(5), sketches)
        writer.append([5], np.zeros((1, 256)))
    store = Datastore.open(stores.path, verify="full")
    want = [0, FLAG_NONFINITE, FLAG_NONFINITE, FLAG_ZERO | FLAG_NO_LABELS, FLAG_NO_LABELS, FLAG_ZERO]
    assert store.metadata()["flags"].tolist() == want
    assert {k: store.info()[k] for k in ("nonfinite", "zero", "no_labels")} == {
        "nonfinite": 2,
        "zero": 2,
        "no_labels": 2,
    }
    assert np.isnan(store.rows()[1, 17])
    assert store.rows()[2, 3] == -np.inf
    assert store.metadata()["tokens"][5] == -1
    assert np.isnan(store.metadata()["gamma_norm"][5])


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float16", 7e4),
        ("float16", -65520.0),
        ("float16", 1e-5),
        ("bfloat16", 3.4e38),
        ("float32", 1e39),
        ("float32", 1e-50),
    ],
)
def test_a_row_that_the_dtype_cannot_hold_is_refused_by_id(dtype, value, stores):
    rows = np.ones((3, 256), np.float64)
    rows[1] = 0
    rows[1, 9] = value
    with Datastore.create(stores.path, spec=stores.spec(), dtype=dtype) as writer:
        with pytest.raises(ValueError, match=rf"range of {dtype}.*id 'bad'.*store them as"):
            writer.append(["a", "bad", "c"], rows)
        writer.append(["a", "bad"], rows[[0, 2]])  # nothing of the refused batch was kept
    assert len(Datastore.open(stores.path)) == 2


def test_batches_that_cut_blocks_anywhere_make_the_bytes_of_one_batch(stores):
    """Blocks of 1 MiB hold 64 rows here; pieces end before, at and after their bounds."""
    spec, sketches = stores.spec(proj_dim=8192), stores.sketches(200, proj_dim=8192)
    for name, cuts in (("one", [0, 200]), ("many", [0, 1, 63, 64, 65, 127, 128, 131, 195, 200])):
        stores.path = stores.path.with_name(name)
        with Datastore.create(stores.path, spec=spec) as writer:
            for start, stop in pairwise(cuts):
                writer.append(range(start, stop), sketches[start:stop])
    assert stores.files() == {p.name: p.read_bytes() for p in stores.path.with_name("one").iterdir()}
