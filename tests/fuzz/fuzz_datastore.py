"""Fuzzing, guided by coverage, of what a datastore parses: ``python fuzz_datastore.py TARGET [libFuzzer options]``.

Targets: ``header``, ``footer``, ``table``, ``spec`` (a parser each), ``store`` (a directory, opened and read).

Checksums are made right before parsing, so that the fuzzer gets past them. Anything but a `DatastoreError`, and
anything accepted that does not mean what it says, is a finding. Without a folder of inputs it begins with small ones.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gradsift.datastore", "gradsift.specs"]):
    from gradsift import Datastore, Gamma, ProjectionSpec, Sketches, StoreSpec
    from gradsift.datastore import compare, spec_file, table
    from gradsift.datastore import format as fmt

import numpy as np

from gradsift.datastore._checksum import crc32c
from gradsift.errors import DatastoreError
from gradsift.specs import canonical_json, digest_of

HEADER = fmt.ShardHeader("0123456789abcdef" * 2, 7, 3, "bfloat16", 256, fmt.ID_UTF8)
QUANTISED = fmt.ShardHeader("0123456789abcdef" * 2, 7, 3, "int8", 256, fmt.ID_UTF8, rotation_seed=3)
SPEC = StoreSpec(
    ProjectionSpec(256, seed=3), parameters=(("a", (2, 3)), ("b", (5,))), checkpoint={"step": 1, "learning_rate": 2e-5}
)


def header(data: bytes) -> None:
    """Numbers that the header holds, in the file's length that the first eight bytes say."""
    claimed, raw = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0], bytearray(fmt.pack_header(HEADER))
    raw[: len(data[8:4100])] = data[8:4100]
    raw[4092:] = crc32c(raw[:4092]).to_bytes(4, "little")
    found = fmt.parse_header(bytes(raw), "shard", claimed)
    assert found.rows * found.row_bytes <= claimed
    assert found.first + found.rows < 2**51
    assert found.block_rows >= 1
    assert found.block_rows * found.row_bytes == found.block_bytes
    assert fmt.parse_name(found.file_name) == (found.first, found.rows, found.spec_digest[:8])


def footer(data: bytes) -> None:
    """A footer behind a header of three rows, quantised ones if a byte follows it; its sections must tile the file."""
    length, raw = struct.unpack("<Q", data[:8].ljust(8, b"\0"))[0], bytearray(512)
    raw[: len(data[8:508])] = data[8:508]
    raw[500:504] = crc32c(raw[:500]).to_bytes(4, "little")
    raw[504:] = fmt.COMMIT_MAGIC
    found = fmt.parse_footer(bytes(raw), QUANTISED if len(data) > 508 else HEADER, "shard", length)
    assert sum(section.size for section in found.sections) + 512 == length
    assert all(a.stop == b.offset for a, b in zip(found.sections, found.sections[1:], strict=False))


def row_table(data: bytes) -> None:
    """A table of up to 15 rows, with both kinds of ids; what is accepted packs to the same bytes."""
    rows, kind = (data[0] & 15) + 1 if data else 1, (fmt.ID_INT64, fmt.ID_UTF8)[data[0] >> 7 if data else 0]
    raw = data[1:]
    found = table.RowTable(memoryview(raw), rows, kind, "shard")
    ids = found.ids(0, rows)
    assert table.pack_table(ids, found.columns) == raw


def spec(data: bytes) -> None:
    """A text that is accepted is the one text of what it means, and its messages are printable."""
    with suppress(ValueError, RecursionError):  # no JSON: then the parser is to say so
        record = json.loads(data)
        if isinstance(record, dict) and "spec" in record:
            record["digest"] = digest_of(record["spec"])
            data = canonical_json(record).encode()
    found, dtype = spec_file.parse_spec(data, "spec.json")
    assert spec_file.pack_spec(found, dtype) == data
    compare.check_comparable(found, found)
    assert all(line.replace("\n", "").isprintable() for line in compare.spec_differences(found, SPEC))


def store(data: bytes) -> None:
    """A directory: the input changes bytes of a valid store, with or without making the seals right again."""
    dtype = DTYPES[data[0] >> 1 & 1 if data else 0]
    folder, name, good, rows = STORES[dtype]
    raw, at = bytearray(good), 1
    while at + 3 <= len(data):
        place, value = struct.unpack_from("<HB", data, at)
        raw[place % len(raw)] = value
        at += 3
    if data and data[0] & 1:
        seal(raw)
    (folder / name).write_bytes(raw)
    opened = Datastore.open(folder, on_error="skip")
    blocks = list(opened.blocks(2, on_error="skip"))
    report = opened.verify()
    assert len(opened) + sum(len(lost) for lost in opened.damaged) >= 3 or raw == good
    if report.ok and not opened.damaged:
        assert sum(len(block) for block in blocks) == len(opened) == len(opened.ids())
        opened.rows()
    if not (data and data[0] & 1):
        known = {block.first + i: row for block in blocks for i, row in enumerate(block.rows)}
        assert all(np.array_equal(row, rows[i]) for i, row in known.items()), "unsealed damage was returned"


def seal(raw: bytearray) -> None:
    """Makes header, table, scales, block and footer checksums right where the layout is the usual one."""
    raw[4092:4096] = crc32c(raw[:4092]).to_bytes(4, "little")
    table_stop = 8200 + TABLE_BYTES
    parts = [(0, 4096), (0, 0), (8192, 8200), (8200, table_stop), (table_stop, len(raw) - 512)]
    for entry, (start, stop) in enumerate(parts if table_stop < len(raw) - 512 else parts[:4]):
        if entry == 1:
            raw[8192:8196] = crc32c(raw[4096:8192]).to_bytes(4, "little")
        else:
            raw[-512 + 20 + 24 * entry : -512 + 24 + 24 * entry] = crc32c(raw[start:stop]).to_bytes(4, "little")
    raw[-12:-8] = crc32c(raw[-512:-12]).to_bytes(4, "little")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "footer": footer,
    "table": row_table,
    "spec": spec,
    "store": store,
}
WORDS = """checkpoint data gamma loss parameters projection kind nonzeros proj_dim seed version rows step sgd adam xor
digest format required_features row_dtype spec beta1 beta2 eps"""
FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
DTYPES = ("bfloat16", "int8")
STORES: dict[str, tuple[Path, str, bytes, np.ndarray]] = {}  # folder, name of its shard, bytes of that, rows
ROWS = np.arange(3 * 256, dtype=np.float32).reshape(3, 256) % 61
KNOWN = Sketches(ROWS, np.ones(3), np.ones(3), np.ones(3, np.float32), np.ones(3, np.int64))
for _dtype in DTYPES:
    _folder = Path(FOLDER.name) / _dtype
    with Datastore.create(_folder, spec=SPEC, dtype=_dtype) as _writer:
        _writer.append(["a", "bb", "ccc"], KNOWN)
    (_shard,) = _folder.glob("shard-*")
    STORES[_dtype] = _folder, _shard.name, _shard.read_bytes(), Datastore.open(_folder).rows()
COLUMNS = Datastore.open(STORES["bfloat16"][0])._shards[0].table().columns
TABLE_BYTES = len(table.pack_table(["a", "bb", "ccc"], COLUMNS))


def seeds(target: str) -> Iterator[bytes]:
    packed = table.pack_table(["a", "bb", "ccc"], COLUMNS)
    length = fmt.shard_bytes(HEADER, len(packed)).to_bytes(8, "little")
    if target == "header":
        yield length + fmt.pack_header(HEADER)[:96]
        yield length + fmt.pack_header(QUANTISED)[:96]
        yield (2**63).to_bytes(8, "little") + fmt.pack_header(HEADER)[:96]
    elif target == "footer":
        for head, more in ((HEADER, b""), (QUANTISED, b"\1")):
            size = fmt.shard_bytes(head, len(packed))
            whole = fmt.pack_footer(fmt.Footer(fmt.layout(head, len(packed)), bytes(32), size))
            yield size.to_bytes(8, "little") + whole[:500] + more
    elif target == "table":
        yield b"\x82" + packed
        yield b"\x02" + table.pack_table([1, 2**40, -(2**63)], COLUMNS)
    elif target == "spec":
        yield from (spec_file.pack_spec(SPEC, dtype) for dtype in fmt.ROW_DTYPES)
        yield spec_file.pack_spec(StoreSpec(ProjectionSpec(), Gamma.adam(step=3), data={"rows": 5}), "float32")
        good = spec_file.pack_spec(SPEC, "float16")
        for old, new in ((b'"float16"', b'["float16"]'), (b'"a"', b"null"), (b"2e-05", b"{}"), (b"[5]", b'"5"')):
            yield good.replace(old, new)
    else:
        for quantised in (0, 2):
            yield bytes([quantised | 1])
            yield bytes([quantised]) + struct.pack("<HB", 4096, 1)
        yield b"\3" + struct.pack("<HB", 8200 + TABLE_BYTES + 24 + 3, 0xBF)  # a scale below zero


def one_input(target: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        try:
            TARGETS[target](data)
        except DatastoreError as error:
            message = str(error)
        else:
            return
        assert len(message) < 5000
        message.encode()

    return run


def main() -> None:
    target, options = sys.argv[1], sys.argv[2:]
    if not any(os.path.isdir(option) for option in options):
        corpus = Path(FOLDER.name) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(seeds(target)):
            (corpus / f"seed-{i}").write_bytes(seed)
        options.append(str(corpus))
    if target == "spec":
        words = Path(FOLDER.name) / "words"
        words.write_text("".join(f'"\\"{word}\\""\n' for word in WORDS.split()), encoding="ascii")
        options.append(f"-dict={words}")
    atheris.Setup([sys.argv[0], *options], one_input(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
