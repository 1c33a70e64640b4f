"""Reads a store by docs/datastore-format.md alone: shares no code with the package, checks every checksum."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from itertools import pairwise
from typing import Any

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def numbers(data: bytes, dtype: int) -> list[float]:
    if dtype == 1:
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    if dtype == 2:
        return list(struct.unpack(f"<{len(data) // 2}e", data))
    halves = struct.unpack(f"<{len(data) // 2}H", data)
    return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]


def read_shard(path: str, name: str, digest: str) -> dict[str, Any]:
    with open(os.path.join(path, name), "rb") as file:
        raw = file.read()
    magic, endian, version, required, _, spec, first, rows, dtype, proj_dim, id_kind, _, block = struct.unpack_from(
        "<8sIIQQ16sQQIIIIQ", raw
    )
    assert magic == b"\x89GSIFT\r\n"
    assert (endian, version, required, spec.hex()) == (0x01020304, 1, 0, digest)
    assert struct.unpack_from("<I", raw, 4092)[0] == crc32c(raw[:4092])
    assert name == f"shard-{first:015d}-{rows:08d}-{digest[:8]}.gs"

    foot = raw[-512:]
    assert foot[:8] == b"GSFOOT\r\n"
    assert foot[504:] == b"GSCOMMIT"
    assert struct.unpack_from("<I", foot, 500)[0] == crc32c(foot[:500])
    assert foot[400:432] == hashlib.blake2b(raw[:-512], digest_size=32).digest()
    assert struct.unpack_from("<Q", foot, 432)[0] == len(raw)
    sections, end = {}, 0
    for i in range(struct.unpack_from("<I", foot, 8)[0]):
        kind, crc, offset, size = struct.unpack_from("<IIQQ", foot, 16 + 24 * i)
        assert offset == end
        end = offset + size
        sections[kind] = raw[offset:end]
        assert crc == (0 if kind == 2 else crc32c(sections[kind]))
    assert end + 512 == len(raw)

    row_bytes = proj_dim * (4 if dtype == 1 else 2)
    for i, at in enumerate(range(0, len(sections[2]), block)):
        assert struct.unpack_from("<I", sections[3], 4 * i)[0] == crc32c(sections[2][at : at + block])
    table, at, columns = sections[4], 0, {}
    for column, code in (("grad_norm", "d"), ("gamma_norm", "d"), ("tokens", "q"), ("loss", "f"), ("flags", "I")):
        columns[column] = list(struct.unpack_from(f"<{rows}{code}", table, at))
        at += rows * struct.calcsize("<" + code)
    if id_kind == 1:
        ids: list[Any] = list(struct.unpack_from(f"<{rows}q", table, at))
    else:
        bounds = struct.unpack_from(f"<{rows + 1}Q", table, at)
        text = table[at + 8 * (rows + 1) :]
        ids = [text[a:b].decode() for a, b in pairwise(bounds)]
    values = [numbers(sections[2][i * row_bytes : (i + 1) * row_bytes], dtype) for i in range(rows)]
    return {"first": first, "ids": ids, "rows": values, **columns}


def read_store(path: str) -> dict[str, Any]:
    """``spec`` (the dict) and ``shards`` (dicts of first, ids, rows and columns, as lists) of the store at `path`."""
    with open(os.path.join(path, "spec.json"), encoding="ascii") as file:
        text = file.read()
    record = json.loads(text)
    assert (record["format"], record["version"], record["required_features"]) == ("gradsift-datastore", 1, 0)
    inner = text[text.index('"spec":') + 7 : text.rindex(',"version":1}')]
    assert record["digest"] == hashlib.blake2b(inner.encode(), digest_size=16).hexdigest()
    names = sorted(name for name in os.listdir(path) if name.startswith("shard-"))
    return {"spec": record["spec"], "shards": [read_shard(path, name, record["digest"]) for name in names]}
