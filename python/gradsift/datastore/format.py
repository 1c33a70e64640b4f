"""The bytes of a shard (docs/datastore-format.md): names, header, sections, footer. Packs, parses, opens no file."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from gradsift.datastore._checksum import crc32c
from gradsift.datastore._digest import FileDigest
from gradsift.errors import DatastoreCorruptError, DatastoreVersionError
from gradsift.specs import ForeignProjection, StoreSpec

if TYPE_CHECKING:
    from gradsift.datastore.rows import StoredRows

VERSION = 1
PAGE_BYTES = 4096
HEADER_BYTES = 4096
FOOTER_BYTES = 512
BLOCK_BYTES = 1 << 20
MAX_FIRST = 10**15 - 1
MAX_SHARD_ROWS = 10**8 - 1
MAX_PROJ_DIM = 1 << 16

HEADER_MAGIC = b"\x89GSIFT\r\n"  # not UTF-8, and broken by any transfer that rewrites line ends
FOOTER_MAGIC = b"GSFOOT\r\n"
COMMIT_MAGIC = b"GSCOMMIT"
ENDIAN_TAG = 0x01020304
FEATURE_QUANTISED = 1
KNOWN_REQUIRED_FEATURES = FEATURE_QUANTISED
KNOWN_OPTIONAL_FEATURES = 0

SECTION_HEADER, SECTION_ROWS, SECTION_CHECKSUMS, SECTION_TABLE, SECTION_SCALES = 1, 2, 3, 4, 5
OPTIONAL_SECTION = 0x8000_0000
MAX_SECTIONS = 16


class RowDtype(NamedTuple):
    code: int
    numpy: str  # of what a row is stored in: bfloat16 travels as uint16, codes of quantised rows as bytes
    bits: int  # of one number

    @property
    def quantised(self) -> bool:
        return self.code >= 16


ROW_DTYPES = {
    "float32": RowDtype(1, "<f4", 32),
    "float16": RowDtype(2, "<f2", 16),
    "bfloat16": RowDtype(3, "<u2", 16),
    "int8": RowDtype(16, "u1", 8),
    "int4": RowDtype(17, "u1", 4),
    "int1": RowDtype(18, "u1", 1),
}
_DTYPE_NAMES = {dtype.code: name for name, dtype in ROW_DTYPES.items()}
MIN_QUANTISED_DIM = 256
ID_INT64, ID_UTF8 = 1, 2

_HEADER = struct.Struct("<8sIIQQ16sQQIIIIQQ")
_FOOTER_HEAD = struct.Struct("<8sII")
_SECTION = struct.Struct("<IIQQ")
_FOOTER_TAIL = struct.Struct("<32sQ")
_SECTIONS_AT = _FOOTER_HEAD.size
_TAIL_AT = _SECTIONS_AT + MAX_SECTIONS * _SECTION.size
_CRC_AT = FOOTER_BYTES - 12
_NAME = re.compile(r"shard-([0-9]{15})-([0-9]{8})-([0-9a-f]{8})\.gs", re.ASCII)


@dataclass(frozen=True)
class ShardHeader:
    """What the first 4 KiB of a shard say."""

    spec_digest: str  # 32 hexadecimal digits
    first: int
    rows: int
    dtype: str
    proj_dim: int
    id_kind: int
    block_bytes: int = BLOCK_BYTES
    optional_features: int = 0
    rotation_seed: int = 0  # of quantised rows

    @classmethod
    def of(cls, spec: StoreSpec, dtype: str, *, first: int, rows: int, id_kind: int) -> ShardHeader:
        """The header of a shard of a store with this `spec`."""
        return cls(
            spec.digest,
            first,
            rows,
            dtype,
            spec.projection.proj_dim,
            id_kind,
            rotation_seed=rotation_seed(spec, dtype),
        )

    @property
    def stop(self) -> int:
        return self.first + self.rows

    @property
    def row_bytes(self) -> int:
        return self.proj_dim * ROW_DTYPES[self.dtype].bits // 8

    @property
    def quantised(self) -> bool:
        return ROW_DTYPES[self.dtype].quantised

    @property
    def block_rows(self) -> int:
        """Rows in each block but the last."""
        return self.block_bytes // self.row_bytes

    @property
    def n_blocks(self) -> int:
        return -(-self.rows // self.block_rows)

    @property
    def file_name(self) -> str:
        return f"shard-{self.first:015d}-{self.rows:08d}-{self.spec_digest[:8]}.gs"


@dataclass(frozen=True)
class Section:
    kind: int
    offset: int
    size: int
    crc: int = 0

    @property
    def stop(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True)
class Footer:
    sections: tuple[Section, ...]
    digest: bytes  # BLAKE2b-256 of all bytes before the footer
    file_bytes: int

    def section(self, kind: int) -> Section:
        return next(s for s in self.sections if s.kind == kind)


class Rows(Protocol):
    """Rows that can be had a block at a time."""

    def __getitem__(self, part: slice, /) -> StoredRows: ...


def required_features(dtype: str) -> int:
    """The required feature bits of stores of `dtype`."""
    return FEATURE_QUANTISED if ROW_DTYPES[dtype].quantised else 0


def rotation_seed(spec: StoreSpec, dtype: str) -> int:
    """The seed of the rotation of quantised rows, one for all that may be multiplied with each other; else 0."""
    if not ROW_DTYPES[dtype].quantised or isinstance(spec.projection, ForeignProjection):
        return 0
    return spec.projection.seed


def aligned(size: int, to: int) -> int:
    """`size` rounded up to a multiple of `to`."""
    return -(-size // to) * to


def parse_name(name: str) -> tuple[int, int, str] | None:
    """First row, rows and digest prefix that a shard's file name claims; None if it is no shard's name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def overlapping(names: Iterable[str], first: int, stop: int) -> list[tuple[str, range]]:
    """Which of `names` are shards that hold some of rows ``[first, stop)``, and which of these rows."""
    found = []
    for name in names:
        place = parse_name(name)
        if place is not None and place[0] < stop and first < place[0] + place[1]:
            found.append((name, range(max(first, place[0]), min(stop, place[0] + place[1]))))
    return found


def looks_like_shard(name: str) -> bool:
    """Whether `name` is close enough to a shard's that passing over it could hide rows."""
    return name.startswith("shard-") or name.endswith(".gs")


def layout(header: ShardHeader, table_bytes: int) -> tuple[Section, ...]:
    """Where the sections of a shard lie; the footer follows the last."""
    rows_bytes = aligned(header.rows * header.row_bytes, PAGE_BYTES)
    sections, offset = [], 0
    sizes = [
        (SECTION_HEADER, HEADER_BYTES),
        (SECTION_ROWS, rows_bytes),
        (SECTION_CHECKSUMS, aligned(4 * header.n_blocks, 8)),
        (SECTION_TABLE, table_bytes),
    ]
    if header.quantised:
        sizes.append((SECTION_SCALES, aligned(12 * header.rows, 8)))
    for kind, size in sizes:
        sections.append(Section(kind, offset, size))
        offset += size
    return tuple(sections)


def shard_bytes(header: ShardHeader, table_bytes: int) -> int:
    """Length of the shard's file."""
    return layout(header, table_bytes)[-1].stop + FOOTER_BYTES


def shard_chunks(header: ShardHeader, rows: Rows, table: bytes) -> Generator[Any, None, None]:
    """The shard's bytes from first to last, as buffers.

    `rows` are asked for a block at a time, in order; `table` comes from `table.pack_table`. Closing the generator early
    ends the thread that computes the digest.
    """
    places = layout(header, len(table))
    packed = pack_header(header)
    digest = FileDigest()
    try:
        digest.update(packed)
        yield packed
        crcs = np.zeros(places[2].size // 4, "<u4")
        norms, scales = np.empty(header.rows, "<f8"), np.empty(header.rows, "<f4")
        for index in range(header.n_blocks):
            part = slice(index * header.block_rows, min((index + 1) * header.block_rows, header.rows))
            stored = rows[part]
            if header.quantised:
                norms[part], scales[part] = stored.norms, stored.scales
            block = stored.numbers.data.cast("B")
            padding = aligned(len(block), PAGE_BYTES) - len(block)
            if padding:
                block = memoryview(bytes(block) + bytes(padding))
            crcs[index] = crc32c(block)
            digest.update(block)
            yield block
        rest = [crcs.tobytes(), table]
        if header.quantised:
            packed_scales = norms.tobytes() + scales.tobytes()
            rest.append(packed_scales + bytes(places[4].size - len(packed_scales)))
        for data in rest:
            digest.update(data)
            yield data
        crc_of = (crc32c(packed), 0, *map(crc32c, rest))
        sections = tuple(Section(s.kind, s.offset, s.size, crc) for s, crc in zip(places, crc_of, strict=True))
        yield pack_footer(Footer(sections, digest.digest(), places[-1].stop + FOOTER_BYTES))
    finally:
        digest.close()


def pack_header(header: ShardHeader) -> bytes:
    packed = bytearray(HEADER_BYTES)
    _HEADER.pack_into(
        packed,
        0,
        HEADER_MAGIC,
        ENDIAN_TAG,
        VERSION,
        required_features(header.dtype),
        header.optional_features,
        bytes.fromhex(header.spec_digest),
        header.first,
        header.rows,
        ROW_DTYPES[header.dtype][0],
        header.proj_dim,
        header.id_kind,
        0,
        header.block_bytes,
        header.rotation_seed,
    )
    packed[-4:] = crc32c(packed[:-4]).to_bytes(4, "little")
    return bytes(packed)


def parse_header(raw: bytes, file: str, file_bytes: int) -> ShardHeader:
    """The header in `raw` (4096 bytes). Everything it claims is within its bounds and within `file_bytes`.

    Raises DatastoreCorruptError, or DatastoreVersionError if another version or machine wrote it.
    """

    def refuse(field: str, expected: object, got: object) -> None:
        raise DatastoreCorruptError(f"{file}: header, {field}: expected {expected}, got {got}")

    magic, endian, version, required, optional, digest, first, rows, *rest = _HEADER.unpack_from(raw)
    code, proj_dim, id_kind, zero, block_bytes, seed = rest
    if magic != HEADER_MAGIC:
        refuse("magic", HEADER_MAGIC, magic)
    crc = crc32c(raw[:-4])
    if crc != int.from_bytes(raw[-4:], "little"):
        swapped = int.from_bytes(ENDIAN_TAG.to_bytes(4, "little"), "big")
        if endian == swapped and crc == int.from_bytes(raw[-4:], "big"):
            raise DatastoreVersionError(
                f"{file}: expected little-endian numbers, got a big-endian shard; convert it where it was written"
            )
        refuse("crc32c", raw[-4:].hex(), crc.to_bytes(4, "little").hex())
    if endian != ENDIAN_TAG:
        refuse("endian tag", hex(ENDIAN_TAG), hex(endian))
    if version != VERSION:
        raise DatastoreVersionError(
            f"{file}: expected format version {VERSION}, got {version}; open it with a gradsift that reads "
            f"version {version}"
        )
    if required & ~KNOWN_REQUIRED_FEATURES:
        raise DatastoreVersionError(
            f"{file}: expected no required feature bits but {KNOWN_REQUIRED_FEATURES:#x}, got {required:#x}; open it "
            "with a newer gradsift"
        )
    if code not in _DTYPE_NAMES:
        raise DatastoreVersionError(
            f"{file}: header, row dtype: expected one of {sorted(_DTYPE_NAMES)}, got {code}; "
            "open it with a newer gradsift"
        )
    dtype = _DTYPE_NAMES[code]
    if required != required_features(dtype):
        refuse("required features", f"{required_features(dtype):#x} for {dtype}", f"{required:#x}")
    unknown_optional = optional & ~KNOWN_OPTIONAL_FEATURES
    unused_seed = 0 if ROW_DTYPES[dtype].quantised else seed
    if not unknown_optional and (zero or unused_seed or raw[_HEADER.size : -4].strip(b"\0")):
        refuse("reserved bytes", "zeros", "others")
    if id_kind not in (ID_INT64, ID_UTF8):
        refuse("id kind", "1 or 2", id_kind)
    if not 1 <= proj_dim <= MAX_PROJ_DIM:
        refuse("proj_dim", f"1 … {MAX_PROJ_DIM}", proj_dim)
    if ROW_DTYPES[dtype].quantised and (proj_dim < MIN_QUANTISED_DIM or proj_dim & (proj_dim - 1)):
        refuse("proj_dim", f"a power of two from {MIN_QUANTISED_DIM} for {dtype}", proj_dim)
    if first > MAX_FIRST:
        refuse("first row", f"at most {MAX_FIRST}", first)
    header = ShardHeader(digest.hex(), first, rows, dtype, proj_dim, id_kind, block_bytes, optional, seed - unused_seed)
    if not 1 <= rows <= min(MAX_SHARD_ROWS, file_bytes // header.row_bytes):
        refuse("rows", f"1 … {file_bytes // header.row_bytes}, what {file_bytes} bytes can hold", rows)
    if block_bytes < header.row_bytes or block_bytes % header.row_bytes or block_bytes % PAGE_BYTES:
        refuse("block size", f"a multiple of {header.row_bytes} and {PAGE_BYTES}", block_bytes)
    return header


def pack_footer(footer: Footer) -> bytes:
    packed = bytearray(FOOTER_BYTES)
    _FOOTER_HEAD.pack_into(packed, 0, FOOTER_MAGIC, len(footer.sections), 0)
    for index, s in enumerate(footer.sections):
        _SECTION.pack_into(packed, _SECTIONS_AT + index * _SECTION.size, s.kind, s.crc, s.offset, s.size)
    _FOOTER_TAIL.pack_into(packed, _TAIL_AT, footer.digest, footer.file_bytes)
    packed[_CRC_AT : _CRC_AT + 4] = crc32c(packed[:_CRC_AT]).to_bytes(4, "little")
    packed[-8:] = COMMIT_MAGIC
    return bytes(packed)


def parse_footer(raw: bytes, header: ShardHeader, file: str, file_bytes: int) -> Footer:
    """The footer in `raw` (the file's last 512 bytes), whose sections tile `file_bytes` exactly as `header` demands."""

    def refuse(field: str, expected: object, got: object) -> None:
        raise DatastoreCorruptError(
            f"{file}: footer, {field}: expected {expected}, got {got}; the file was cut, lengthened or overwritten"
        )

    if raw[-8:] != COMMIT_MAGIC:
        refuse("commit magic", COMMIT_MAGIC, raw[-8:])
    crc = crc32c(raw[:_CRC_AT]).to_bytes(4, "little")
    if raw[_CRC_AT : _CRC_AT + 4] != crc:
        refuse("crc32c", raw[_CRC_AT : _CRC_AT + 4].hex(), crc.hex())
    magic, n_sections, zero = _FOOTER_HEAD.unpack_from(raw)
    if magic != FOOTER_MAGIC:
        refuse("magic", FOOTER_MAGIC, magic)
    n_known = len(layout(header, 0))
    if not n_known <= n_sections <= MAX_SECTIONS:
        refuse("sections", f"{n_known} … {MAX_SECTIONS}", n_sections)
    sections = []
    for index in range(n_sections):
        kind, section_crc, offset, size = _SECTION.unpack_from(raw, _SECTIONS_AT + index * _SECTION.size)
        sections.append(Section(kind, offset, size, section_crc))
    digest, claimed_bytes = _FOOTER_TAIL.unpack_from(raw, _TAIL_AT)
    unused = raw[_SECTIONS_AT + n_sections * _SECTION.size : _TAIL_AT] + raw[_TAIL_AT + _FOOTER_TAIL.size : _CRC_AT]
    if zero or unused.strip(b"\0"):
        refuse("reserved bytes", "zeros", "others")
    if claimed_bytes != file_bytes:
        refuse("file size", claimed_bytes, file_bytes)

    offset = 0
    for s in sections:
        if s.offset != offset:
            refuse(f"section {s.kind}, offset", offset, s.offset)
        offset = s.stop
    if offset + FOOTER_BYTES != file_bytes:
        refuse("end of the last section", file_bytes - FOOTER_BYTES, offset)
    for want, got in zip(layout(header, sections[3].size), sections, strict=False):
        if (got.kind, got.offset, got.size) != (want.kind, want.offset, want.size):
            refuse(
                f"section {want.kind}",
                f"kind {want.kind}, {want.size} bytes at {want.offset}",
                f"kind {got.kind}, {got.size} bytes at {got.offset}",
            )
    for s in sections[n_known:]:
        if not s.kind & OPTIONAL_SECTION:
            raise DatastoreVersionError(
                f"{file}: footer: expected sections that version {VERSION} knows, got kind {s.kind}; open it with a "
                "newer gradsift"
            )
    return Footer(tuple(sections), digest, file_bytes)
