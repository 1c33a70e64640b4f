"""Stores that a stranger might send: ``python tests/datastore/attacks/make_attacks.py FOLDER`` writes them all.

Shares no code with the package but the checksum: what is wrong with a store is wrong in its bytes, and everything else
in it is right, seals included, so that no earlier check catches it by luck. `SMALL` ones are kept in ``kept/``; `NAMED`
ones, whose names archives and other systems may not hold, and `BIG` ones are made when they are tested.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradsift._native import crc32c

CORRUPT, VERSION, MISMATCH = "DatastoreCorruptError", "DatastoreVersionError", "SpecMismatchError"
SPEC = {
    "checkpoint": {},
    "data": {},
    "gamma": None,
    "loss": "mean_over_own_label_tokens",
    "parameters": [],
    "projection": {"kind": "xor", "nonzeros": 1, "proj_dim": 256, "seed": 0, "version": 1},
}
ROWS, ROW_BYTES, TABLE = 3, 512, 3 * 32 + 4 * 8 + 8
Files = dict[str, bytes]


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def digest_of(spec: Any) -> str:
    return hashlib.blake2b(canonical(spec), digest_size=16).hexdigest()


def spec_json(spec: Any = SPEC, **fields: Any) -> bytes:
    record = {
        "digest": digest_of(spec),
        "format": "gradsift-datastore",
        "required_features": 0,
        "row_dtype": "bfloat16",
    }
    return canonical({**record, "spec": spec, "version": 1, **fields})


def changed(**fields: Any) -> Any:
    return {**SPEC, **fields}


def shard(
    *,
    patches: dict[int, bytes] | None = None,
    table: Callable[[bytes], bytes] | None = None,
    footer: dict[int, bytes] | None = None,
    sections: list[tuple[int, int, int]] | None = None,
    extra: bytes = b"",
    digest: str = digest_of(SPEC),
    scales: bytes | None = None,
) -> bytes:
    """Three rows of ones with ids "a", "b", "c"; `patches` go to the header, `footer` to the footer; seals are right.

    `sections` replaces (kind, offset, size) in the footer; `extra` goes before the footer. With `scales`, the bytes of
    that section, rows are int8 codes of zero bits.
    """
    header = bytearray(4096)
    first, dtype, required, block = 0, 3 if scales is None else 16, 0 if scales is None else 1, 1 << 20
    struct.pack_into(
        "<8sIIQQ16sQQIIIIQ", header, 0, b"\x89GSIFT\r\n", 0x01020304, 1, required, 0,
        bytes.fromhex(digest), first, ROWS, dtype, ROW_BYTES // 2, 2, 0, block,
    )  # fmt: skip
    for at, data in (patches or {}).items():
        header[at : at + len(data)] = data
    header[4092:] = struct.pack("<I", crc32c(header[:4092]))
    rows = (b"\x80\x3f" * (ROWS * ROW_BYTES // 2) if scales is None else b"").ljust(4096, b"\0")
    checksums = struct.pack("<II", crc32c(rows), 0)
    columns = struct.pack("<3d3d3q3f3I", *(1.0,) * 6, *(1,) * 3, *(1.0,) * 3, *(0,) * 3)
    packed = columns + struct.pack("<4Q", 0, 1, 2, 3) + b"abc".ljust(8, b"\0")
    packed = table(packed) if table else packed
    body = bytes(header) + rows + checksums + packed + (scales or b"") + extra
    places = sections or [
        (1, 0, 4096), (2, 4096, 4096), (3, 8192, 8), (4, 8200, len(packed)),
        *([] if scales is None else [(5, 8200 + len(packed), len(scales))]),
    ]  # fmt: skip
    crcs = [crc32c(header), 0, crc32c(checksums), crc32c(packed), crc32c(scales or b"")]
    foot = bytearray(512)
    struct.pack_into("<8sII", foot, 0, b"GSFOOT\r\n", len(places), 0)
    for i, ((kind, offset, size), crc) in enumerate(zip(places, crcs, strict=False)):
        struct.pack_into("<IIQQ", foot, 16 + 24 * i, kind, crc, offset, size)
    struct.pack_into("<32sQ", foot, 400, hashlib.blake2b(body, digest_size=32).digest(), len(body) + 512)
    for at, data in (footer or {}).items():
        foot[at : at + len(data)] = data
    foot[500:504] = struct.pack("<I", crc32c(foot[:500]))
    foot[504:] = b"GSCOMMIT"
    return body + bytes(foot)


NAME = f"shard-{0:015d}-{ROWS:08d}-{digest_of(SPEC)[:8]}.gs"


def store(raw: bytes, name: str = NAME) -> Files:
    return {"spec.json": spec_json(), name: raw}


def only(raw: bytes) -> Files:
    return {"spec.json": raw}


def quantised(scale: float = 1.0, cut: int = 0, **changes: Any) -> Files:
    """A store of int8 rows, the second of which has `scale`; `cut` bytes are missing from the section of scales."""
    scales = struct.pack("<3d3f4x", 16.0, 16.0, 16.0, 1.0, scale, 1.0)
    raw = shard(scales=scales[: len(scales) - cut], **changes)
    return {"spec.json": spec_json(required_features=1, row_dtype="int8"), NAME: raw}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def tabled(at: int, data: bytes) -> bytes:
    return shard(table=lambda packed: packed[:at] + data + packed[at + len(data) :])


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("open('executed', 'w').close()",))


def swapped() -> bytes:
    raw = bytearray(shard())
    raw[8:12] = struct.pack(">I", 0x01020304)
    raw[4092:4096] = struct.pack(">I", crc32c(raw[:4092]))
    return bytes(raw)


WRAPS = 2**64 // ROW_BYTES + ROWS  # rows that, multiplied by a row's bytes in 64 bits, are three rows
GOOD = shard()
TEXT = spec_json().decode()

# name: (files, error at open, or at reading where "read:" stands before it, what the message says)
SMALL: dict[str, tuple[Files, str, str]] = {
    "spec-duplicate-key": (only(TEXT.replace('"seed":0', '"seed":0,"seed":1').encode()), CORRUPT, "twice"),
    "spec-duplicate-top-key": (
        only(TEXT.replace('"version":1}}', '"version":1}},"spec":{}')[:-1].encode()), CORRUPT, "JSON|twice"),
    "spec-nested": (only(b'{"a":' * 5000 + b"1" + b"}" * 5000), CORRUPT, "nesting"),
    "spec-nested-behind-escapes": (only(b'{"a":"\\\\\\"[","b":' + b"[" * 5000), CORRUPT, "nesting"),
    "spec-long-integer": (only(TEXT.replace('"seed":0', '"seed":' + "9" * 5000).encode()), CORRUPT, "64 bits"),
    "spec-nan": (only(TEXT.replace('"data":{}', '"data":{"x":NaN}').encode()), CORRUPT, "NaN"),
    "spec-infinity": (only(TEXT.replace('"data":{}', '"data":{"x":1e999}').encode()), CORRUPT, "finite"),
    "spec-empty": (only(b""), CORRUPT, "JSON"),
    "spec-truncated": (only(TEXT[:-1].encode()), CORRUPT, "JSON"),
    "spec-trailing-garbage": (only(TEXT.encode() + b"\0"), CORRUPT, "JSON"),
    "spec-with-byte-order-mark": (only(b"\xef\xbb\xbf" + TEXT.encode()), CORRUPT, "ASCII"),
    "spec-utf-16": (only(TEXT.encode("utf-16")), CORRUPT, "ASCII|JSON"),
    "spec-list": (only(b"[1]"), CORRUPT, "one object"),
    "spec-names-files": (only(spec_json(shards=["/etc/passwd", "../../secret.gs"])), CORRUPT, "keys"),
    "spec-future-version": (only(spec_json(version=2)), VERSION, "version 1, got 2"),
    "spec-required-feature": (only(spec_json(required_features=1 << 40)), VERSION, "required feature"),
    "spec-unknown-dtype": (only(spec_json(row_dtype="float8")), VERSION, "row_dtype"),
    "spec-dtype-of-another-type": (only(spec_json(row_dtype=["bfloat16"])), VERSION, "row_dtype"),
    "spec-digest-of-another": (only(spec_json(digest="0" * 32)), CORRUPT, "digest"),
    "spec-digest-is-a-number": (only(spec_json(digest=7)), CORRUPT, "digest"),
    "spec-parameter-without-name": (only(spec_json(changed(parameters=[[None, [1]], ["b", [1]]]))), CORRUPT, "names"),
    "spec-parameter-shape": (only(spec_json(changed(parameters=[["a", [2**63]], ["b", [-1]]]))), CORRUPT, "shape"),
    "spec-proj-dim": (
        only(spec_json(changed(projection={**SPEC["projection"], "proj_dim": 2**31}))), CORRUPT, "proj_dim"),
    "spec-rows": (only(spec_json(changed(data={"rows": 2**63}))), CORRUPT, "rows"),
    "spec-rows-negative": (only(spec_json(changed(data={"rows": -1}))), CORRUPT, "rows"),
    "header-rows-2-60": (store(shard(patches={56: u64(2**60)})), CORRUPT, "rows"),
    "header-rows-all-ones": (store(shard(patches={56: u64(2**64 - 1)})), CORRUPT, "rows"),
    "header-rows-whose-bytes-wrap": (store(shard(patches={56: u64(WRAPS)})), CORRUPT, "rows"),
    "header-no-rows": (store(shard(patches={56: u64(0)})), CORRUPT, "rows"),
    "header-first-row": (store(shard(patches={48: u64(2**64 - 1)})), CORRUPT, "first row"),
    "header-proj-dim-0": (store(shard(patches={68: u32(0)})), CORRUPT, "proj_dim"),
    "header-proj-dim-all-ones": (store(shard(patches={68: u32(2**32 - 1)})), CORRUPT, "proj_dim"),
    "header-proj-dim-of-no-spec": (store(shard(patches={68: u32(64)})), CORRUPT + "|" + MISMATCH, "."),
    "header-block-0": (store(shard(patches={80: u64(0)})), CORRUPT, "block size"),
    # As the text of the format allows: one block, which ends where the section does.
    "header-block-2-64": (store(shard(patches={80: u64(2**64 - 4096)})), "nothing", ""),
    "header-block-2-62": (store(shard(patches={80: u64(2**62)})), "nothing", ""),
    "header-reserved-bytes": (store(shard(patches={4000: b"\1"})), CORRUPT, "reserved"),
    "header-future-version": (store(shard(patches={12: u32(2)})), VERSION, "version 1, got 2"),
    "header-required-feature": (store(shard(patches={16: u64(1 << 63)})), VERSION, "required feature"),
    "header-unknown-dtype": (store(shard(patches={64: u32(99)})), VERSION, "row dtype"),
    "header-id-kind": (store(shard(patches={72: u32(9)})), CORRUPT, "id kind"),
    "header-magic": (store(shard(patches={0: b"\x89PNG\r\n\x1a\n"})), CORRUPT, "magic"),
    "header-endian-tag": (store(shard(patches={8: u32(0x04030201)})), CORRUPT, "endian"),
    "header-big-endian": (store(swapped()), VERSION, "big-endian"),
    "header-of-another-store": (store(shard(digest=digest_of(SPEC)[:8] + "0" * 24)), MISMATCH, "spec digest"),
    "footer-sections-all-ones": (store(shard(footer={8: u32(2**32 - 1)})), CORRUPT, "sections"),
    "footer-no-sections": (store(shard(footer={8: u32(0)})), CORRUPT, "sections"),
    "footer-file-size": (store(shard(footer={432: u64(2**63)})), CORRUPT, "file size"),
    "footer-section-beyond-the-end": (
        store(shard(sections=[(1, 0, 4096), (2, 4096, 2**63), (3, 8192, 8), (4, 8200, TABLE)])), CORRUPT, "section"),
    "footer-sections-that-wrap": (
        store(shard(sections=[(1, 0, 4096), (2, 4096, 2**64 - 4096), (3, 0, 8200), (4, 8200, TABLE)])),
        CORRUPT, "section"),
    "footer-sections-overlap": (
        store(shard(sections=[(1, 0, 4096), (2, 0, 4096), (3, 8192, 8), (4, 8200, TABLE)])), CORRUPT, "section"),
    "footer-hole": (store(shard(extra=bytes(8))), CORRUPT, "section|table|zeros"),
    "footer-unknown-section": (
        store(shard(sections=[(1, 0, 4096), (2, 4096, 4096), (3, 8192, 8), (4, 8200, TABLE), (9, 8200 + TABLE, 8)],
                    extra=bytes(8))), VERSION, "kind 9"),
    "table-id-offset-all-ones": (store(tabled(96 + 8, u64(2**64 - 1))), "read:" + CORRUPT, "id offsets"),
    "table-id-end-all-ones": (store(tabled(96 + 24, u64(2**64 - 1))), "read:" + CORRUPT, "id offsets"),
    "table-id-offsets-fall": (store(tabled(96 + 8, u64(3))), "read:" + CORRUPT, "id offsets"),
    "table-id-not-utf-8": (store(tabled(128, b"\xff")), "read:" + CORRUPT, "UTF-8"),
    "table-bytes-after-the-ids": (store(tabled(131, b"x")), "read:" + CORRUPT, "zeros"),
    "table-short": (store(shard(table=lambda packed: packed[:64])), "read:" + CORRUPT, "row table"),
    "table-an-id-twice": (store(tabled(128, b"b")), "read:" + CORRUPT, "unique"),
    "quantised-scale-negative": (quantised(-1.0), "read:" + CORRUPT, "row scales: .* got -1.0 for row 1"),
    "quantised-scale-infinite": (quantised(float("inf")), "read:" + CORRUPT, "row scales: .* got inf for row 1"),
    "quantised-scales-short": (quantised(cut=8), CORRUPT, "footer, section 5"),
    "quantised-scales-empty": (quantised(cut=40), CORRUPT, "footer, section 5"),
    "quantised-scales-wrap": (
        quantised(sections=[(1, 0, 4096), (2, 4096, 4096), (3, 8192, 8), (4, 8200, TABLE),
                            (5, 8200 + TABLE, 2**64 - 8)]), CORRUPT, "last section"),
    "quantised-scales-are-the-table": (
        quantised(sections=[(1, 0, 4096), (2, 4096, 4096), (3, 8192, 8), (4, 8200, TABLE), (5, 8200, TABLE)]),
        CORRUPT, "section 5, offset"),
    "quantised-without-scales": (
        quantised(sections=[(1, 0, 4096), (2, 4096, 4096), (3, 8192, 8), (4, 8200, TABLE)]), CORRUPT, "sections"),
    "quantised-without-its-feature": (quantised(patches={16: u64(0)}), CORRUPT, "required features"),
    "quantised-unknown-feature": (quantised(patches={16: u64(3)}), VERSION, "required feature"),
    "quantised-other-seed": (quantised(patches={88: u64(2**64 - 1)}), MISMATCH, "rotation seed"),
    "quantised-proj-dim-below": (quantised(patches={68: u32(128)}), CORRUPT, "proj_dim"),
    "quantised-proj-dim-of-no-power": (quantised(patches={68: u32(384)}), CORRUPT, "proj_dim"),
    "quantised-rows-2-60": (quantised(patches={56: u64(2**60)}), CORRUPT, "rows"),
    "quantised-in-a-store-of-floats": (store(quantised()[NAME]), MISMATCH, "row dtype"),
    "floats-in-a-quantised-store": ({**quantised(), NAME: GOOD}, MISMATCH, "row dtype"),
    "floats-with-a-seed": (store(shard(patches={88: u64(1)})), CORRUPT, "reserved"),
    "spec-quantised-without-its-feature": (only(spec_json(row_dtype="int8")), CORRUPT, "required_features"),
    "spec-floats-with-a-feature": (only(spec_json(required_features=1)), CORRUPT, "required_features"),
    "shard-empty": (store(b""), CORRUPT, "at least 4608 bytes"),
    "shard-only-a-footer": (store(GOOD[-512:]), CORRUPT, "at least 4608 bytes"),
    "shard-trailing-garbage": (store(GOOD + b"\0"), CORRUPT, "commit magic"),
    "shard-with-another-behind-it": (store(GOOD + GOOD), CORRUPT, "."),
    "shard-zip-before-it": (store(b"PK\x03\x04" + GOOD), CORRUPT, "magic"),
    "shard-pickle": (store(pickle.dumps(Bomb(), 2).ljust(4608, b"\0")), CORRUPT, "magic"),
}  # fmt: skip

NAMED: dict[str, tuple[Files, str, str]] = {
    "name-of-other-rows": (store(GOOD, NAME.replace("-00000003-", "-00000004-")), CORRUPT, "name its header gives"),
    "name-of-another-place": (store(GOOD, NAME.replace("shard-0", "shard-1")), CORRUPT, "name its header gives"),
    "name-with-dots": (store(GOOD, ".." + NAME), CORRUPT, "name"),
    "name-with-line-end": (store(GOOD, NAME + "\n"), CORRUPT, "name"),
    "name-with-other-digits": (store(GOOD, NAME.replace("shard-0", "shard-\u0660")), CORRUPT, "name"),
    "name-with-capitals": (store(GOOD, NAME.upper().replace("SHARD", "shard").replace(".GS", ".gs")), CORRUPT, "name"),
    "name-of-an-escape-sequence": (store(GOOD, "shard-\x1b[2J"), CORRUPT, r"shard-\\x1b\[2J"),
    "overlap": (
        {**store(GOOD), NAME.replace("shard-000000000000000", "shard-000000000000002"): shard(patches={48: u64(2)})},
        CORRUPT, "overlap"),
}  # fmt: skip

MANY = 1 << 18
BIG: dict[str, tuple[Files, str, str]] = {
    "spec-of-quotes": (only(b'{"a":"' + b'\\"' * MANY), CORRUPT, "JSON"),
    "spec-of-strings": (only(b'["' + b'","' * MANY), CORRUPT, "JSON"),
    "spec-of-brackets": (only(b"[]" * MANY), CORRUPT, "JSON"),
    "spec-of-one-name": (only(spec_json(changed(parameters=[["a", []]] * (MANY // 4)))), CORRUPT, "each name once"),
    "spec-of-one-key": (only(b"{" + b'"a":1,' * (MANY // 4) + b'"a":1}'), CORRUPT, "twice"),
    "spec-too-long": (only(b" " * ((16 << 20) + 1)), CORRUPT, "at most 16777216 bytes"),
    "spec-of-digits": (only(b'{"a":' + b"1" * (4 * MANY) + b"}"), CORRUPT, "64 bits"),
    "spec-of-decimals": (only(b'{"a":0.' + b"1" * (4 * MANY) + b"}"), CORRUPT, "gradsift-datastore"),
}


def write(folder: Path, attacks: dict[str, tuple[Files, str, str]]) -> None:
    for attack, (files, _, _) in attacks.items():
        (folder / attack).mkdir(parents=True)
        for name, raw in files.items():
            (folder / attack / name).write_bytes(raw)


if __name__ == "__main__":
    write(Path(sys.argv[1]), SMALL)
