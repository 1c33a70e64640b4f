"""Reads and verifies a datastore by docs/datastore-format.md alone, without the package: read_datastore.py STORE"""

import hashlib
import json
import sys
from itertools import pairwise
from pathlib import Path
from struct import pack, unpack_from

import numpy as np

TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    TABLE = (TABLE >> 1) ^ np.where(TABLE & 1, np.uint32(0x82F63B78), np.uint32(0))
LANE = 1024  # bytes; the lanes of a buffer are taken through the table side by side


def run(crc, lanes):
    for column in lanes.T:
        crc = TABLE[(crc ^ column) & 255] ^ (crc >> 8)
    return crc


# What a checksum becomes when LANE zeros follow, for each value of each of its four bytes.
BYTES = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], np.uint32)
SHIFT = run(BYTES, np.zeros((1, LANE), np.uint8)).tolist()


def crc32c(data):
    raw = np.frombuffer(data, np.uint8)
    padded = np.zeros(-(-len(raw) // LANE) * LANE, np.uint8)  # zeros in front change nothing
    padded[len(padded) - len(raw) :] = raw
    padded[len(padded) - len(raw) :][:4] ^= 255  # the initial value
    crc, (a, b, c, d) = 0, SHIFT
    for lane in run(np.zeros(len(padded) // LANE, np.uint32), padded.reshape(-1, LANE)).tolist():
        crc = a[crc & 255] ^ b[crc >> 8 & 255] ^ c[crc >> 16 & 255] ^ d[crc >> 24] ^ lane
    return crc ^ 0xFFFFFFFF


def need(ok, what):
    if not ok:
        raise ValueError(what)


def read_spec(path):
    with open(path, encoding="ascii") as file:
        text = file.read((16 << 20) + 1)
    need(len(text) <= 16 << 20, f"{path}: longer than 16 MiB")
    record = json.loads(text)
    need(json.dumps(record, sort_keys=True, separators=(",", ":")) == text, f"{path}: not canonical")
    need(record["format"] == "gradsift-datastore", f"{path}: another format")
    need(record["version"] == 1 and record["required_features"] <= 1, f"{path}: another version")
    inner = text[text.index('"spec":') + 7 : text.rindex(',"version":1}')]
    need(record["digest"] == hashlib.blake2b(inner.encode(), digest_size=16).hexdigest(), f"{path}: digest")
    return record


def decode(stored, bits, kind, proj_dim, seed, scales):
    """Rows as float32 from the bytes of whole rows."""
    numbers = np.frombuffer(stored, kind)
    if kind == "<u2":
        return (numbers.astype(np.uint32) << 16).view(np.float32).reshape(-1, proj_dim)
    if bits > 8:
        return numbers.astype(np.float32).reshape(-1, proj_dim)
    digits = np.unpackbits(numbers, bitorder="little").reshape(-1, proj_dim, bits)
    worth = np.append(1 << np.arange(bits - 1), -1 << bits - 1)  # two's complement; a single bit is a sign
    y = digits @ worth if bits > 1 else 1 + 2 * (digits @ worth)
    for log_h in range(proj_dim.bit_length() - 1):
        a, b = y.reshape(len(y), -1, 2, 1 << log_h).transpose(2, 0, 1, 3)
        y = np.stack([a + b, a - b], 2).reshape(y.shape)
    c = [0, 0, 0, np.arange(proj_dim // 128, dtype=object)]  # Philox4x32-10, on Python's integers
    k = seed % 2**32, seed >> 32 ^ 0x48414441
    for _ in range(10):
        p, r = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(r >> 32) ^ c[1] ^ k[0], r % 2**32, (p >> 32) ^ c[3] ^ k[1], p % 2**32]
        k = (k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32
    minus = np.unpackbits(np.frombuffer(np.array(c, "<u4").T.tobytes(), np.uint8), bitorder="little")
    signed = (1 - 2 * minus.astype(np.float32)) * (y.astype(np.float32) * scales[:, None])
    return np.where(scales[:, None] == 0, np.float32(0), signed)


COLUMNS = {"grad_norm": "<f8", "gamma_norm": "<f8", "tokens": "<i8", "loss": "<f4", "flags": "<u4"}
DTYPES = {1: ("float32", 32, "<f4"), 2: ("float16", 16, "<f2"), 3: ("bfloat16", 16, "<u2")}  # name, bits, stored as
DTYPES |= {16: ("int8", 8, "u1"), 17: ("int4", 4, "u1"), 18: ("int1", 1, "u1")}


def read_shard(path, record):
    need(path.is_file() and not path.is_symlink(), f"{path}: no regular file")
    raw = path.read_bytes()
    head, foot = raw[:4096], raw[-512:]
    need(len(raw) >= 4096 + 512 and head[:8] == b"\x89GSIFT\r\n", f"{path}: no shard")
    need(crc32c(head[:4092]) == unpack_from("<I", head, 4092)[0], f"{path}: header: crc32c")
    fields = unpack_from("<IIQQ16sQQIIIIQQ", head, 8)
    endian, version, required, optional, spec, first, rows, code, proj_dim, id_kind, _, block, seed = fields
    need(endian == 0x01020304 and version == 1 and required <= 1 and code in DTYPES, f"{path}: another version")
    dtype, bits, stored_as = DTYPES[code]
    need((required == 1) == (code >= 16) == (record["required_features"] == 1), f"{path}: required features")
    row_bytes, want_seed = bits * proj_dim // 8, record["spec"]["projection"].get("seed", 0) if required else 0
    need(seed == want_seed and (optional or not any(head[76:80] + head[96:4092])), f"{path}: header: reserved bytes")
    need(spec.hex() == record["digest"] and dtype == record["row_dtype"], f"{path}: belongs to another spec")
    need(proj_dim == record["spec"]["projection"]["proj_dim"] and id_kind in (1, 2), f"{path}: header: fields")
    need(path.name == f"shard-{first:015d}-{rows:08d}-{spec.hex()[:8]}.gs", f"{path}: renamed")
    need(block > 0 and block % row_bytes == 0 and block % 4096 == 0, f"{path}: header: block bytes")
    need(crc32c(foot[:500]) == unpack_from("<I", foot, 500)[0], f"{path}: footer: crc32c")
    need((foot[:8], foot[432:440], foot[504:]) == (b"GSFOOT\r\n", pack("<Q", len(raw)), b"GSCOMMIT"), f"{path}: footer")
    need(hashlib.blake2b(raw[:-512], digest_size=32).digest() == foot[400:432], f"{path}: digest")

    end, sections = 0, {}
    for i in range(unpack_from("<I", foot, 8)[0]):
        kind, crc, offset, size = unpack_from("<IIQQ", foot, 16 + 24 * i)
        need(offset == end and (kind == i + 1 if i < 4 + required else kind >= 1 << 31), f"{path}: section {kind}")
        sections[i + 1], end = raw[offset : offset + size], end + size
        need(kind == 2 or crc32c(sections[i + 1]) == crc, f"{path}: section {kind}: crc32c")
    need(end == len(raw) - 512 and len(sections[2]) == -(-rows * row_bytes // 4096) * 4096, f"{path}: sizes")
    for i, at in enumerate(range(0, len(sections[2]), block)):
        crc = unpack_from("<I", sections[3], 4 * i)[0]
        need(crc32c(sections[2][at : at + block]) == crc, f"{path}: block {i}: crc32c")

    table, at, columns = sections[4], 0, {}
    for column, kind in COLUMNS.items():
        columns[column] = np.frombuffer(table, kind, rows, at)
        at += columns[column].nbytes
    ids = np.frombuffer(table, "<i8", rows + id_kind - 1, at).tolist()
    if id_kind == 2:
        ids = [table[at + 8 * (rows + 1) :][a:b].decode() for a, b in pairwise(ids)]
    scales = np.frombuffer(sections[5], "<f4", rows, 8 * rows) if required else None
    stored = sections[2][: rows * row_bytes]
    return first, ids, decode(stored, bits, stored_as, proj_dim, seed, scales), columns


def read_store(path):
    """(spec, row numbers, ids, rows (N, P) float32, columns) of the store at `path`, every checksum checked."""
    record = read_spec(Path(path) / "spec.json")
    files = [file for file in Path(path).iterdir() if file.name.startswith("shard-") or file.suffix == ".gs"]
    shards = [read_shard(file, record) for file in sorted(files)]
    ids = [i for _, some, _, _ in shards for i in some]
    numbers = np.array([first + i for first, some, _, _ in shards for i in range(len(some))], np.int64)
    need((np.diff(numbers) > 0).all() and len(set(ids)) == len(ids), f"{path}: rows or ids stand there twice")
    none = np.zeros((0, record["spec"]["projection"]["proj_dim"]), np.float32)
    rows = np.concatenate([none, *(rows for _, _, rows, _ in shards)])
    columns = {c: np.concatenate([np.zeros(0, kind), *(s[3][c] for s in shards)]) for c, kind in COLUMNS.items()}
    return record["spec"], numbers, ids, rows, columns


if __name__ == "__main__":
    spec, numbers, ids, rows, columns = read_store(sys.argv[1])
    print(json.dumps(spec["projection"]), f"{len(ids)} rows, every checksum good")
    for i in range(min(len(ids), 10)):
        known = {name: column[i].item() for name, column in columns.items()}
        print(numbers[i], repr(ids[i]), f"|row| = {np.linalg.norm(rows[i]):.6g}", known)
