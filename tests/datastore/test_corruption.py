"""A reader never returns bytes that are not those that were written, and says which shard and block is bad."""

from __future__ import annotations

import hashlib
import os
import struct

import numpy as np
import pytest

from gradsift import Datastore
from gradsift.datastore import _checksum
from gradsift.datastore import format as fmt
from gradsift.errors import DatastoreCorruptError, DatastoreError, DatastoreVersionError, SpecMismatchError

BIG = 65536  # with float32 a row is 256 KiB and a block four rows


def flip(path, offset, bit=0):
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1 << bit
    path.write_bytes(raw)


def patch(raw, offset, data):
    return raw[:offset] + data + raw[offset + len(data) :]


def aligned_table_bytes(rows):
    """Of a row table with ids of four letters."""
    return fmt.aligned(rows * (32 + 8 + 4) + 8, 8)


def resealed(raw, *, header=True):
    """`raw` with the checksums made right again: damage that only the checks of meaning can find."""
    raw = bytearray(raw)
    raw[4092:4096] = struct.pack("<I", _checksum.crc32c(raw[:4092]))
    if header:
        raw[-512 + 20 : -512 + 24] = struct.pack("<I", _checksum.crc32c(raw[:4096]))
    raw[-12:-8] = struct.pack("<I", _checksum.crc32c(raw[-512:-12]))
    return bytes(raw)


def test_one_bit_flipped_in_any_byte_of_header_or_footer_is_found_at_open(stores):
    stores.make(5)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    rng = np.random.default_rng(0)
    with open(shard, "r+b", buffering=0) as file:
        for offset in [*range(4096), *range(len(good) - 512, len(good))]:
            os.pwrite(file.fileno(), bytes([good[offset] ^ 1 << int(rng.integers(8))]), offset)
            with pytest.raises(DatastoreCorruptError, match="shard-0"):
                Datastore.open(stores.path)
            os.pwrite(file.fileno(), good[offset : offset + 1], offset)
    assert Datastore.open(stores.path, verify="full").ids()[4] == "id 4"


def test_one_bit_flipped_in_any_byte_of_checksums_or_row_table_is_found_before_it_is_used(stores):
    stores.make(5)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    with open(shard, "r+b", buffering=0) as file:
        for offset in range(8192, len(good) - 512):
            os.pwrite(file.fileno(), bytes([good[offset] ^ 1]), offset)
            with pytest.raises(DatastoreCorruptError, match=r"shard-0.*(row table|block checksums)"):
                Datastore.open(stores.path).ids()
            os.pwrite(file.fileno(), good[offset : offset + 1], offset)


@pytest.mark.parametrize("offset", [4096, 4097, 5000, 4096 + 5 * 512 - 1, 4096 + 5 * 512, 8191])
def test_a_bit_flipped_in_rows_or_their_padding_is_found_when_the_block_is_read(stores, offset):
    stores.make(5)
    flip(stores.shards()[0], offset)
    store = Datastore.open(stores.path)
    with pytest.raises(DatastoreCorruptError, match=r"shard-0.*block 0 at offset 4096 \(rows 0 … 4\)"):
        store.rows(0, 1)
    with pytest.raises(DatastoreCorruptError):
        Datastore.open(stores.path, verify="full")


def test_only_the_damaged_block_is_lost(stores):
    stores.make(10, proj_dim=BIG, dtype="float32")
    flip(stores.shards()[0], 4096 + 5 * BIG * 4)  # row 5, in block 1: rows 4 … 7
    store = Datastore.open(stores.path)
    want = stores.sketches(10, BIG).rows
    np.testing.assert_array_equal(store.rows(0, 4), want[:4])
    np.testing.assert_array_equal(store.rows(8, 10), want[8:])
    for start, stop in ((0, 5), (4, 5), (7, 8), (7, 10), (0, 10)):
        with pytest.raises(DatastoreCorruptError, match=r"block 1 .*rows 4 … 7"):
            store.rows(start, stop)


@pytest.mark.parametrize("rows", [1, 3, 4096])
def test_skipping_yields_every_good_row_and_lists_the_lost_ones(stores, rows):
    stores.make(10, proj_dim=BIG, dtype="float32")
    flip(stores.shards()[0], 4096 + 5 * BIG * 4)
    store = Datastore.open(stores.path)
    with pytest.raises(DatastoreCorruptError, match="block 1"):
        list(store.blocks(rows))
    blocks = list(store.blocks(rows, on_error="skip"))
    kept = [block.first + i for block in blocks for i in range(len(block))]
    assert kept == [0, 1, 2, 3, 8, 9]
    assert [i for block in blocks for i in block.ids] == [f"id {i}" for i in kept]
    np.testing.assert_array_equal(np.concatenate([b.rows for b in blocks]), stores.sketches(10, BIG).rows[kept])
    assert sorted(row for lost in store.damaged for row in range(lost.first, lost.stop)) == [4, 5, 6, 7]


def test_a_damaged_row_table_loses_its_shard_only(stores):
    stores.make(6, shard_rows=3)
    bad = stores.shards()[0]
    flip(bad, bad.stat().st_size - 512 - 8)
    store = Datastore.open(stores.path)
    assert [block.first for block in store.blocks(on_error="skip")] == [3]
    assert [(lost.shard, lost.first, lost.stop) for lost in store.damaged] == [(bad.name, 0, 3)]


def test_without_verification_rows_are_returned_unchecked_and_the_rest_is_checked(stores):
    stores.make(5, dtype="float32")
    flip(stores.shards()[0], 4096)
    got = Datastore.open(stores.path, verify="none").rows()
    assert (got != stores.sketches(5).rows).sum() == 1
    flip(stores.shards()[0], 100)
    with pytest.raises(DatastoreCorruptError):
        Datastore.open(stores.path, verify="none")


def test_truncation_at_every_section_boundary_and_one_byte_beside_is_refused_at_open(stores):
    stores.make(5)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    sections = fmt.layout(fmt.ShardHeader("0" * 32, 0, 5, "bfloat16", 256, 2), len(good) - 512 - 8200)
    assert sections[-1].stop + 512 == len(good)
    for end in {0, len(good), *(s.offset for s in sections), *(s.stop for s in sections)}:
        for length in {end - 1, end, end + 1} & set(range(len(good))):
            shard.write_bytes(good[:length])
            with pytest.raises(DatastoreCorruptError):
                Datastore.open(stores.path, verify="none")


def test_every_sampled_truncation_is_refused_at_open(stores):
    stores.make(5)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    for length in np.random.default_rng(1).integers(0, len(good), 100):
        shard.write_bytes(good[:length])
        with pytest.raises(DatastoreCorruptError):
            Datastore.open(stores.path, verify="none")


@pytest.mark.parametrize("garbage", [b"\0", b"x" * 512, "footer again"])
def test_trailing_and_leading_garbage_is_refused(stores, garbage):
    stores.make(5)
    (shard,) = stores.shards()
    good = shard.read_bytes()
    garbage = good[-512:] if garbage == "footer again" else garbage
    for raw in (good + garbage, garbage + good):
        shard.write_bytes(raw)
        with pytest.raises(DatastoreCorruptError):
            Datastore.open(stores.path)


@pytest.mark.parametrize(
    ("field", "offset", "data"),
    [
        ("rows", 56, struct.pack("<Q", 2**60)),
        ("rows", 56, struct.pack("<Q", 2**64 - 1)),
        ("rows", 56, struct.pack("<Q", 0)),
        ("the name its header gives", 56, struct.pack("<Q", 6)),
        ("first row", 48, struct.pack("<Q", 2**64 - 1)),
        ("proj_dim", 68, struct.pack("<I", 2**32 - 1)),
        ("proj_dim", 68, struct.pack("<I", 0)),
        ("block size", 80, struct.pack("<Q", 0)),
        ("block size", 80, struct.pack("<Q", 4095)),
        ("block size", 80, struct.pack("<Q", 2**64 - 512)),
        ("id kind", 72, struct.pack("<I", 9)),
        ("reserved bytes", 4000, b"\1"),
    ],
)
def test_a_header_with_a_valid_checksum_that_claims_what_cannot_be_is_refused(stores, field, offset, data):
    stores.make(5)
    (shard,) = stores.shards()
    shard.write_bytes(resealed(patch(shard.read_bytes(), offset, data)))
    with pytest.raises(DatastoreCorruptError, match=field):
        Datastore.open(stores.path)


@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize("value", [0, 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("field", ["offset", "size"])
def test_a_footer_whose_sections_do_not_tile_the_file_is_refused(stores, entry, field, value):
    stores.make(5)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    at = len(raw) - 512 + 16 + 24 * entry + (8 if field == "offset" else 16)
    if struct.unpack_from("<Q", raw, at)[0] == value:
        value += 8
    shard.write_bytes(resealed(patch(raw, at, struct.pack("<Q", value))))
    with pytest.raises(DatastoreCorruptError, match="section"):
        Datastore.open(stores.path)


def test_sections_that_tile_the_file_but_are_not_those_of_its_rows_are_refused(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = bytearray(shard.read_bytes())
    entry = len(raw) - 512 + 16
    for at, change in ((entry + 2 * 24 + 16, -8), (entry + 3 * 24 + 8, -8), (entry + 3 * 24 + 16, 8)):
        struct.pack_into("<Q", raw, at, struct.unpack_from("<Q", raw, at)[0] + change)
    shard.write_bytes(resealed(raw))
    with pytest.raises(DatastoreCorruptError, match="section 3"):
        Datastore.open(stores.path)


def test_a_footer_of_another_length_of_file_is_refused(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    shard.write_bytes(resealed(patch(raw, len(raw) - 512 + 432, struct.pack("<Q", len(raw) - 1))))
    with pytest.raises(DatastoreCorruptError, match="file size"):
        Datastore.open(stores.path)


@pytest.mark.parametrize("offsets", [[1, 4, 8], [0, 9, 8], [0, 4, 2**64 - 1], [0, 4, 7]])
def test_id_offsets_that_do_not_fit_their_text_are_refused(stores, offsets):
    stores.make(2)  # "id 0", "id 1": 8 bytes of text
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    table = len(raw) - 512 - aligned_table_bytes(2)
    raw = patch(raw, table + 2 * 32, struct.pack("<3Q", *offsets))
    crc = _checksum.crc32c(raw[table:-512])
    shard.write_bytes(resealed(patch(raw, len(raw) - 512 + 16 + 3 * 24 + 4, struct.pack("<I", crc))))
    with pytest.raises(DatastoreCorruptError, match=r"id offsets|zeros after the ids"):
        Datastore.open(stores.path).ids()


@pytest.mark.parametrize(
    ("offset", "data", "needed"),
    [
        (12, struct.pack("<I", 2), "version 1, got 2"),
        (16, struct.pack("<Q", 1 << 40), "required feature bits"),
        (64, struct.pack("<I", 19), "row dtype"),
    ],
)
def test_a_later_version_is_refused_by_what_it_needs(stores, offset, data, needed):
    stores.make(5)
    (shard,) = stores.shards()
    shard.write_bytes(resealed(patch(shard.read_bytes(), offset, data)))
    with pytest.raises(DatastoreVersionError, match=needed):
        Datastore.open(stores.path)


def test_unknown_optional_features_and_sections_are_passed_over(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    body, foot = raw[:-512], bytearray(raw[-512:])
    body = patch(patch(body, 24, struct.pack("<Q", 1)), 4000, b"new")
    struct.pack_into("<I", foot, 8, 5)
    struct.pack_into("<IIQQ", foot, 16 + 4 * 24, 0x8000_0007, 0, len(body), 16)
    struct.pack_into("<Q", foot, 432, len(raw) + 16)
    shard.write_bytes(resealed(body + b"sixteen new byte" + bytes(foot)))
    np.testing.assert_array_equal(Datastore.open(stores.path).rows().shape, (5, 256))
    struct.pack_into("<Q", foot, 16 + 4 * 24 + 8, len(body) + 8)  # a hole before it, as much less of it
    struct.pack_into("<Q", foot, 16 + 4 * 24 + 16, 8)
    shard.write_bytes(resealed(body + b"sixteen new byte" + bytes(foot)))
    with pytest.raises(DatastoreCorruptError, match="offset"):
        Datastore.open(stores.path)
    struct.pack_into("<IIQQ", foot, 16 + 4 * 24, 5, 0, len(body), 16)  # and one that a reader must know
    shard.write_bytes(resealed(body + b"sixteen new byte" + bytes(foot)))
    with pytest.raises(DatastoreVersionError, match="kind 5"):
        Datastore.open(stores.path)


def test_a_big_endian_shard_is_refused_as_such(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = patch(shard.read_bytes(), 8, struct.pack(">I", fmt.ENDIAN_TAG))
    shard.write_bytes(patch(raw, 4092, struct.pack(">I", _checksum.crc32c(raw[:4092]))))
    with pytest.raises(DatastoreVersionError, match="big-endian"):
        Datastore.open(stores.path)


@pytest.mark.parametrize(
    "name",
    [
        "shard-0-5-{digest}.gs",
        "shard-000000000000001-00000005-{digest}.gs",
        "shard-000000000000000-00000006-{digest}.gs",
        "shard-000000000000000-00000005-deadbeef.gs",
        "shard-000000000000000-00000005-{digest}.gs.bak",
        "shard-000000000000000-00000005-{digest}.gs\n",
        "shard-٠00000000000000-00000005-{digest}.gs",
        "..shard-000000000000000-00000005-{digest}.gs",
    ],
)
def test_a_shard_under_another_name_is_refused(stores, name):
    stores.make(5)
    (shard,) = stores.shards()
    shard.rename(stores.path / name.format(digest=shard.name[-11:-3]))
    with pytest.raises(DatastoreCorruptError, match="name"):
        Datastore.open(stores.path)


def test_symbolic_links_and_special_files_are_refused(stores, tmp_path):
    stores.make(5)
    (shard,) = stores.shards()
    elsewhere = tmp_path / "elsewhere.gs"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    with pytest.raises(DatastoreCorruptError, match="symbolic link"):
        Datastore.open(stores.path)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(DatastoreCorruptError, match="special file"):
        Datastore.open(stores.path)
    shard.unlink()
    elsewhere.rename(shard)
    (stores.path / "spec.json").rename(elsewhere)
    (stores.path / "spec.json").symlink_to(elsewhere)
    with pytest.raises(DatastoreCorruptError, match="symbolic link"):
        Datastore.open(stores.path)


def test_overlapping_shards_are_refused_and_both_are_named(stores, tmp_path):
    stores.make(6, shard_rows=3)
    first = stores.shards()[0]
    stores.path = tmp_path / "other"
    stores.make(6)
    both = stores.shards()[0]
    both.rename(first.parent / both.name)
    with pytest.raises(DatastoreCorruptError, match=rf"{both.name}.*overlap.*{first.name}"):
        Datastore.open(first.parent)
    store = Datastore.open(first.parent, on_error="skip")
    assert len(store) == 6
    assert [damage.shard for damage in store.damaged] == [both.name]


def test_a_shard_of_another_store_is_refused(stores):
    stores.make(5)
    (shard,) = stores.shards()
    flip(shard, 32 + 15)  # the spec digest, beyond the part that the name has
    shard.write_bytes(resealed(shard.read_bytes()))
    with pytest.raises(SpecMismatchError, match="spec digest"):
        Datastore.open(stores.path)


def test_a_shard_beyond_the_expected_rows_is_refused(stores):
    stores.make(5, spec=stores.spec(rows=5))
    (shard,) = stores.shards()
    shard.write_bytes(resealed(patch(shard.read_bytes(), 48, struct.pack("<Q", 1))))
    shard.rename(stores.path / shard.name.replace("shard-000000000000000-", "shard-000000000000001-"))
    with pytest.raises(SpecMismatchError, match=r"rows below 5 .*rows up to 5"):
        Datastore.open(stores.path)


def test_shards_with_ids_of_two_kinds_are_refused(stores, tmp_path):
    stores.make(2)
    here = stores.path
    stores.path = tmp_path / "other"
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        writer.append([7], stores.sketches(1), first=2)
    stores.shards()[0].rename(here / stores.shards()[0].name)
    with pytest.raises(DatastoreCorruptError, match="integers and strings"):
        Datastore.open(here)


def test_flags_that_contradict_their_rows_are_found(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    table = len(raw) - 512 - aligned_table_bytes(5)
    raw = patch(raw, table + 5 * 28 + 4 * 3, struct.pack("<I", 2))
    crc = _checksum.crc32c(raw[table:-512])
    raw = patch(raw, len(raw) - 512 + 16 + 3 * 24 + 4, struct.pack("<I", crc))
    digest = hashlib.blake2b(raw[:-512], digest_size=32).digest()
    shard.write_bytes(resealed(patch(raw, len(raw) - 512 + 400, digest)))
    for full in (False, True):
        assert "row 3: expected the flags its numbers have" in str(Datastore.open(stores.path).verify(full=full))


def test_an_id_in_two_shards_is_found(stores, tmp_path):
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        writer.append(["a", "b"], stores.sketches(2))
    here = stores.path
    stores.path = tmp_path / "other"
    with Datastore.create(stores.path, spec=stores.spec()) as writer:
        writer.append(["c", "b"], stores.sketches(2), first=7)
    stores.shards()[0].rename(here / stores.shards()[0].name)
    store = Datastore.open(here)
    with pytest.raises(DatastoreCorruptError, match="'b' in rows 1 and 8"):
        store.ids()
    assert "'b' in rows 1 and 8" in str(store.verify())


def test_verify_reports_every_damaged_shard_and_reads_on(stores):
    stores.make(9, shard_rows=3)
    block, table, head = stores.shards()
    flip(block, 4096)
    flip(table, table.stat().st_size - 512 - 1)
    flip(head, 7)
    report = Datastore.open(stores.path, on_error="skip").verify(full=True)
    assert not report.ok
    assert [shard.ok for shard in report.shards] == [False, False, False]
    assert [shard.first for shard in report.shards] == [0, 3, 6]
    for shard, word in zip(report.shards, ("block 0", "row table", "magic"), strict=True):
        assert len(shard.problems) == 1
        assert word in shard.problems[0]
        assert shard.shard in str(report)


def test_full_verification_finds_what_no_checksum_covers(stores):
    stores.make(5)
    (shard,) = stores.shards()
    raw = shard.read_bytes()
    shard.write_bytes(resealed(patch(raw, len(raw) - 512 + 400, bytes(32))))  # another digest
    assert Datastore.open(stores.path).verify(full=False).ok
    report = Datastore.open(stores.path).verify(full=True)
    assert "file digest" in report.shards[0].problems[0]


def test_a_good_store_verifies(stores):
    stores.make(9, shard_rows=4)
    report = Datastore.open(stores.path).verify(full=True)
    assert report.ok
    assert [(shard.first, shard.rows) for shard in report.shards] == [(0, 4), (4, 4), (8, 1)]
    assert "ok, 3 shards, 9 rows" in str(report)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(DatastoreError, match=r"Datastore\.create"):
        Datastore.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DatastoreError):
        Datastore.open(tmp_path / "file")
    with pytest.raises(DatastoreError, match=r"spec\.json"):
        Datastore.open(tmp_path)
