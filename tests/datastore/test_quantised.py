"""Stores of 8, 4 and 1 bit: what is read, what is refused, what is flagged, and the packed rows themselves."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from gradsift import Datastore, ProjectionSpec, StoreSpec, ops
from gradsift.datastore import FLAG_NONFINITE, FLAG_ZERO, _checksum, spec_file
from gradsift.datastore import block as blocks
from gradsift.datastore import format as fmt
from gradsift.errors import DatastoreCorruptError, DatastoreVersionError, SpecMismatchError
from gradsift.specs import ForeignProjection

BITS = {"int8": 8, "int4": 4, "int1": 1}
SEED = 2**60 + 3


@pytest.fixture(params=BITS)
def dtype(request):
    return request.param


def make(stores, dtype, n=23, shard_rows=7, proj_dim=256):
    spec = stores.spec(rows=n, proj_dim=proj_dim, seed=SEED)
    return stores.make(n, dtype=dtype, spec=spec, shard_rows=shard_rows, proj_dim=proj_dim)


def resealed(raw):
    """`raw` with the checksums of header, fifth section, whole file and footer made right again."""
    raw = bytearray(raw)
    raw[4092:4096] = struct.pack("<I", _checksum.crc32c(raw[:4092]))
    raw[-512 + 20 : -512 + 24] = struct.pack("<I", _checksum.crc32c(raw[:4096]))
    offset, size = struct.unpack_from("<QQ", raw, len(raw) - 512 + 16 + 4 * 24 + 8)
    struct.pack_into("<I", raw, len(raw) - 512 + 16 + 4 * 24 + 4, _checksum.crc32c(raw[offset : offset + size]))
    raw[-12:-8] = struct.pack("<I", _checksum.crc32c(raw[-512:-12]))
    return bytes(raw)


def test_rows_are_read_as_the_op_gives_them_and_blocks_hold_the_packed_ones(stores, dtype):
    rows = stores.sketches(23).rows
    want = ops.quantise_rows(rows, bits=BITS[dtype], seed=SEED, backend="reference")
    back = ops.dequantise_rows(want.codes, want.scales, bits=BITS[dtype], seed=SEED, backend="reference")
    store = Datastore.open(make(stores, dtype), verify="full")
    assert store.dtype == dtype
    assert store.rows().tobytes() == back.tobytes()
    assert store.rows(5, 16).tobytes() == back[5:16].tobytes()
    for block in store.blocks(4):
        part = slice(block.first, block.first + len(block))
        np.testing.assert_array_equal(block.rows, back[part])
        np.testing.assert_array_equal(block.packed, want.codes[part])
        np.testing.assert_array_equal(block.scales, want.scales[part])
        np.testing.assert_array_equal(block.norms, want.norms[part])
        assert not block.packed.flags.writeable
    np.testing.assert_allclose(want.norms, np.linalg.norm(rows.astype(float), axis=1), rtol=1e-14)


def test_rows_are_not_made_until_they_are_asked_for(stores, dtype, monkeypatch):
    store = Datastore.open(make(stores, dtype))
    monkeypatch.setattr(blocks, "decode_rows", lambda *_, **__: pytest.fail("decoded"))
    assert sum(len(block.packed) for block in store.blocks()) == 23


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_blocks_of_floats_are_packed_as_they_are_stored(stores, stored):
    (found,) = Datastore.open(stores.make(5, dtype=stored)).blocks()
    assert found.packed.dtype == fmt.ROW_DTYPES[stored].numpy
    assert (found.scales, found.norms) == (None, None)


def test_a_row_takes_as_many_bytes_as_its_bits(stores, dtype):
    make(stores, dtype, n=64, shard_rows=64, proj_dim=4096)
    (shard,) = stores.shards()
    assert 0 < shard.stat().st_size - (4096 + 64 * 4096 * BITS[dtype] // 8 + 512) < 64 * 64


def test_files_do_not_depend_on_batches_or_threads(stores, dtype, tmp_path):
    make(stores, dtype)
    files, rows = stores.files(), stores.sketches(23)
    with Datastore.create(
        tmp_path / "other", spec=stores.spec(rows=23, seed=SEED), dtype=dtype, shard_rows=7
    ) as writer:
        for start, stop in ((20, 23), (0, 1), (1, 20)):
            writer.append([f"id {i}" for i in range(start, stop)], rows[start:stop], first=start)
    assert {p.name: p.read_bytes() for p in (tmp_path / "other").iterdir()} == files


def test_zeros_nan_inf_and_spikes_are_kept_and_flagged(stores, dtype):
    rows = np.zeros((5, 256), np.float32)
    rows[1, 3], rows[2, 0], rows[3, 200], rows[4] = np.nan, -np.inf, -1e6, 1.0
    with Datastore.create(stores.path, spec=stores.spec(), dtype=dtype) as writer:
        writer.append(list("abcde"), rows)
    store = Datastore.open(stores.path, verify="full")
    assert store.metadata()["flags"].tolist() == [FLAG_ZERO, FLAG_NONFINITE, FLAG_NONFINITE, 0, 0]
    got = store.rows()
    assert not got[0].any()
    assert np.isnan(got[1:3]).all()
    assert np.argmin(got[3]) == 200
    assert np.count_nonzero(got[3]) == 1


@pytest.mark.parametrize("number", [np.float64(1e300), np.float64(1e-60), np.float32(1e31), np.float32(1e-31)])
def test_rows_too_long_or_short_for_codes_are_refused_by_id(stores, dtype, number):
    rows = np.ones((3, 256), number.dtype)
    rows[1] = 0
    rows[1, 0] = number
    with Datastore.create(stores.path, spec=stores.spec(), dtype=dtype) as writer:
        with pytest.raises(ValueError, match=rf"range of {dtype}, whose norms are .*got a norm of .* for id 'b'"):
            writer.append(list("abc"), rows)
        writer.append(["a", "c"], rows[[0, 2]])
    assert Datastore.open(stores.path, verify="full").ids() == ["a", "c"]


def test_a_killed_or_unfinished_store_is_resumed_with_its_dtype_only(stores, dtype):
    spec = stores.spec(rows=20, seed=SEED)
    rows = stores.sketches(20)
    ids = [f"id {i}" for i in range(20)]
    writer = Datastore.create(stores.path, spec=spec, dtype=dtype, shard_rows=4)
    writer.append(ids[:9], rows[:9])
    writer.close()
    with pytest.raises(SpecMismatchError, match=f"dtype: '{dtype}' against 'float32'"):
        Datastore.create(stores.path, spec=spec, dtype="float32", resume=True)
    with Datastore.create(stores.path, spec=spec, dtype=dtype, shard_rows=4, resume=True) as writer:
        assert writer.missing() == [range(8, 20)]
        writer.append(ids[8:], rows[8:])
    want = ops.quantise_rows(rows.rows, bits=BITS[dtype], seed=SEED)
    np.testing.assert_array_equal(np.concatenate([b.packed for b in Datastore.open(stores.path).blocks()]), want.codes)


def test_readers_that_do_not_know_quantised_rows_refuse_spec_and_shard(stores, dtype, monkeypatch):
    path = make(stores, dtype, shard_rows=23)
    for module in (spec_file, fmt):
        monkeypatch.setattr(module, "KNOWN_REQUIRED_FEATURES", 0)
        with pytest.raises(DatastoreVersionError, match=r"no required feature bits but 0x0, got .*1; open it"):
            Datastore.open(path)
        monkeypatch.undo()
    assert len(Datastore.open(path)) == 23


def test_one_bit_flipped_in_any_byte_of_the_scales_is_found_before_they_are_used(stores, dtype):
    make(stores, dtype, shard_rows=23)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    section = len(good) - 512 - fmt.aligned(12 * 23, 8)
    for at in range(section, len(good) - 512, 5):
        shard.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        store = Datastore.open(stores.path)
        with pytest.raises(DatastoreCorruptError, match=r"shard-0.*row scales at offset \d+: expected crc32c"):
            store.rows()
        assert list(store.blocks(on_error="skip")) == []
        assert [(lost.first, lost.stop) for lost in store.damaged] == [(0, 23)]
        assert "row scales" in str(store.verify(full=False))


@pytest.mark.parametrize("scale", [-1.0, np.inf, -np.inf])
def test_scales_that_no_row_has_are_refused(stores, dtype, scale):
    make(stores, dtype, shard_rows=23)
    (shard,) = stores.shards()
    raw = bytearray(shard.read_bytes())
    at = len(raw) - 512 - fmt.aligned(12 * 23, 8) + 23 * 8 + 4 * 9
    raw[at : at + 4] = struct.pack("<f", scale)
    shard.write_bytes(resealed(raw))
    with pytest.raises(DatastoreCorruptError, match=r"row scales: expected finite ones .*, got .* for row 9"):
        Datastore.open(stores.path).rows()


def test_a_scale_that_contradicts_its_flag_is_found_by_verifying(stores, dtype):
    make(stores, dtype, shard_rows=23)
    (shard,) = stores.shards()
    raw = bytearray(shard.read_bytes())
    at = len(raw) - 512 - fmt.aligned(12 * 23, 8) + 23 * 8 + 4 * 9
    raw[at : at + 4] = struct.pack("<f", np.nan)
    shard.write_bytes(resealed(raw))
    assert "row 9: expected the flags its numbers have" in str(Datastore.open(stores.path).verify())


@pytest.mark.parametrize(
    ("offset", "data", "error", "match"),
    [
        (16, struct.pack("<Q", 0), DatastoreCorruptError, "required features: expected 0x1 for int"),
        (64, struct.pack("<I", 3), DatastoreCorruptError, "required features: expected 0x0 for bfloat16, got 0x1"),
        (64, struct.pack("<I", 19), DatastoreVersionError, "row dtype: expected one of"),
        (68, struct.pack("<I", 255), DatastoreCorruptError, "proj_dim: expected a power of two from 256 for int"),
        (68, struct.pack("<I", 128), DatastoreCorruptError, "proj_dim: expected a power of two from 256 for int"),
        (
            88,
            struct.pack("<Q", SEED + 1),
            SpecMismatchError,
            f"rotation seed: .* {SEED} .*, got {SEED + 1}",
        ),
        (96, b"\1", DatastoreCorruptError, "reserved bytes: expected zeros"),
    ],
)
def test_headers_that_contradict_themselves_or_the_spec_are_refused(stores, dtype, offset, data, error, match):
    make(stores, dtype, shard_rows=23)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    shard.write_bytes(resealed(raw[:offset] + data + raw[offset + len(data) :]))
    with pytest.raises(error, match=match):
        Datastore.open(stores.path)


def test_the_seed_of_float_rows_is_a_reserved_zero(stores):
    stores.make(5, dtype="float32")
    (shard,) = stores.shards()
    raw = bytearray(shard.read_bytes())
    raw[88] = 1
    raw[4092:4096] = struct.pack("<I", _checksum.crc32c(raw[:4092]))
    shard.write_bytes(raw)
    with pytest.raises(DatastoreCorruptError, match="reserved bytes"):
        Datastore.open(stores.path)


def test_a_shard_without_its_scales_is_refused(stores, dtype):
    make(stores, dtype, shard_rows=23)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    body, foot = raw[: -512 - fmt.aligned(12 * 23, 8)], bytearray(raw[-512:])
    struct.pack_into("<I", foot, 8, 4)
    foot[16 + 4 * 24 : 16 + 5 * 24] = bytes(24)
    struct.pack_into("<Q", foot, 432, len(body) + 512)
    foot[500:504] = struct.pack("<I", _checksum.crc32c(foot[:500]))
    shard.write_bytes(body + foot)
    with pytest.raises(DatastoreCorruptError, match="footer, sections: expected 5 … 16, got 4"):
        Datastore.open(stores.path)


def test_stores_of_different_dtypes_score_alike(stores, tmp_path):
    """Rows come back in the basis they were given in, so that candidates of any dtype meet float targets."""
    rng = np.random.default_rng(5)
    target = rng.normal(size=(1, 1024)).astype(np.float32)
    target /= np.linalg.norm(target)
    rows = (rng.normal(size=(60, 1024)) + 20 * target * rng.uniform(-1, 1, (60, 1))).astype(np.float32)
    want = ops.score_rows(rows, target)[:, 0]
    for dtype, budget in {"float32": 1e-6, "int8": 0.002, "int4": 0.02, "int1": 0.2}.items():
        spec = StoreSpec(ProjectionSpec(1024, seed=SEED))
        with Datastore.create(tmp_path / dtype, spec=spec, dtype=dtype) as writer:
            writer.append(range(60), rows)
        got = ops.score_rows(Datastore.open(tmp_path / dtype).rows(), target)[:, 0]
        assert np.abs(got - want).max() < budget


def test_rows_of_a_foreign_matrix_are_rotated_by_seed_0(stores, dtype):
    rows = stores.sketches(5).rows
    spec = StoreSpec(ForeignProjection(256, "LESS", "a100"))
    with Datastore.create(stores.path, spec=spec, dtype=dtype) as writer:
        writer.append(list("abcde"), rows)
    want = ops.quantise_rows(rows, bits=BITS[dtype], seed=0)
    (block,) = Datastore.open(stores.path, verify="full").blocks()
    np.testing.assert_array_equal(block.packed, want.codes)
