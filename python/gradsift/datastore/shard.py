"""One published shard, mapped read-only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradsift.datastore import format as fmt
from gradsift.datastore._checksum import crc32c, crc32c_blocks
from gradsift.datastore._place import Place
from gradsift.datastore.rows import StoredRows, decode_rows, flags_of
from gradsift.datastore.table import FLAG_NONFINITE, FLAG_ZERO, RowTable
from gradsift.errors import DatastoreCorruptError

_HASH_BYTES = 1 << 20


@dataclass(frozen=True)
class Damage:
    """Rows that are in a store and cannot be trusted."""

    shard: str
    first: int
    stop: int
    reason: str

    def __len__(self) -> int:
        return self.stop - self.first


class Shard:
    """Opens `name`: header, footer, sizes and section checksums are good, or DatastoreError is raised.

    Row blocks are checked when first read (unless `check_blocks` is False), the row table when first used.
    """

    def __init__(self, directory: Place, name: str, *, check_blocks: bool = True) -> None:
        self.name = name
        self.file = directory.file(name)
        claimed = fmt.parse_name(name)
        if claimed is None:
            raise DatastoreCorruptError(
                f"{self.file}: expected a name shard-<15 digits>-<8 digits>-<8 hex digits>.gs, got another; move the "
                "file elsewhere if it is none of the store's"
            )
        with directory.source(name) as source:
            self.file_bytes = source.size
            smallest = fmt.HEADER_BYTES + fmt.FOOTER_BYTES
            if self.file_bytes < smallest:
                raise DatastoreCorruptError(
                    f"{self.file}: expected at least {smallest} bytes, got {self.file_bytes}; the file was cut"
                )
            head = source.read(0, fmt.HEADER_BYTES)
            self.header = fmt.parse_header(head, self.file, self.file_bytes)
            foot = source.read(self.file_bytes - fmt.FOOTER_BYTES, fmt.FOOTER_BYTES)
            self._footer = fmt.parse_footer(foot, self.header, self.file, self.file_bytes)
            if self.header.file_name != name:
                raise DatastoreCorruptError(
                    f"{self.file}: expected the name its header gives, {self.header.file_name}; the file was renamed"
                )
            self._bytes = source.mapped()
        self._checked_section(fmt.SECTION_HEADER, "header")
        checksums = self._checked_section(fmt.SECTION_CHECKSUMS, "block checksums")
        self._crcs = np.frombuffer(checksums, "<u4", self.header.n_blocks)
        self._check_blocks = check_blocks
        self._asked = 0  # up to this byte rows were asked for
        self._table: RowTable | None = None
        self._scales: tuple[np.ndarray, np.ndarray] | None = None
        # Which blocks are still to be checked, of the bytes that were read under this number.
        self._unchecked = (0, np.full(self.header.n_blocks, check_blocks))

    @property
    def first(self) -> int:
        return self.header.first

    @property
    def stop(self) -> int:
        return self.header.stop

    @property
    def digest(self) -> bytes:
        """What the footer says of all bytes before it."""
        return self._footer.digest

    def table(self) -> RowTable:
        """The row table, its checksum checked once."""
        if self._table is None:
            self._table = RowTable(self.table_bytes(), self.header.rows, self.header.id_kind, self.file)
        return self._table

    def table_bytes(self) -> memoryview:
        """The bytes of the row table, which passed their checksum."""
        return self._checked_section(fmt.SECTION_TABLE, "row table")

    def stored(self, start: int, stop: int, *, ahead: bool = False) -> StoredRows:
        """Rows ``[start, stop)`` of the shard as stored, a read-only view of blocks that passed their checksums.

        `ahead` says that the rows after them are read next.
        """
        blocks, first, raw, unchecked = self._blocks_of(start, stop, ahead)
        to_check = np.flatnonzero(unchecked[blocks.start : blocks.stop])
        if len(to_check):
            some = range(blocks.start + int(to_check[0]), blocks.start + int(to_check[-1]) + 1)
            self._verify_blocks(some, blocks, raw, unchecked)
        rows = min(blocks.stop * self.header.block_rows, self.header.rows) - first
        kind = np.dtype(fmt.ROW_DTYPES[self.header.dtype].numpy)
        stored = np.frombuffer(raw, kind, max(rows, 0) * self.header.row_bytes // kind.itemsize)
        numbers = stored.reshape(-1, self.header.row_bytes // kind.itemsize)[start - first : stop - first]
        if not self.header.quantised:
            return StoredRows(numbers)
        norms, scales = self.scales()
        return StoredRows(numbers, scales[start:stop], norms[start:stop])

    def ask(self, start: int, stop: int) -> None:
        """Has rows ``[start, stop)`` brought near, unless they were already, while the caller goes on."""
        at, row_bytes = self._footer.section(fmt.SECTION_ROWS), self.header.row_bytes
        to_byte = min(at.offset + stop * row_bytes, at.stop)
        from_byte = max(at.offset + start * row_bytes, self._asked)
        if from_byte < to_byte:
            self._bytes.ask(from_byte, to_byte)
            self._asked = to_byte

    def decoded(self, stored: StoredRows) -> np.ndarray:
        """Rows of the shard, which `stored` gave, as float32."""
        return decode_rows(stored, self.header.dtype, seed=self.header.rotation_seed)

    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """(norms, scales) of quantised rows, (rows,) float64 and float32, the section's checksum checked once."""
        if self._scales is None:
            raw = self._checked_section(fmt.SECTION_SCALES, "row scales")
            norms = np.frombuffer(raw, "<f8", self.header.rows)
            scales = np.frombuffer(raw, "<f4", self.header.rows, norms.nbytes)
            wrong = ~((scales >= 0) & (scales < np.inf) | np.isnan(scales))
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DatastoreCorruptError(
                    f"{self.file}: row scales: expected finite ones from 0, or NaN, got {scales[row]} for row "
                    f"{self.first + row}"
                )
            self._scales = norms, scales
        return self._scales

    def difference(self, rows: range, ids: list[Any], stored: StoredRows) -> str | None:
        """Where `rows` of the store, all in this shard, differ from these; None if ids and bits are equal."""
        start, stop = rows.start - self.first, rows.stop - self.first
        same = self.stored(start, stop).same_bits(stored)
        for at, (mine, other) in enumerate(zip(self.table().ids(start, stop), ids, strict=True)):
            if mine != other:
                return f"the id of row {rows[at]} ({mine!r} against {other!r})"
            if not same[at]:
                return f"the numbers of row {rows[at]}"
        return None

    def damaged_rows(self, start: int, stop: int) -> list[Damage]:
        """What of rows ``[start, stop)`` lies in blocks that fail their checksums."""
        found = []
        blocks, _, raw, unchecked = self._blocks_of(start, stop, True)
        for block in blocks:
            try:
                if unchecked[block]:
                    self._verify_blocks(range(block, block + 1), blocks, raw, unchecked)
            except DatastoreCorruptError as error:
                rows = self._block_rows(block)
                lost = range(max(start, rows.start), min(stop, rows.stop))
                found.append(Damage(self.name, self.first + lost.start, self.first + lost.stop, str(error)))
        return found

    def problems(self, *, full: bool) -> list[str]:
        """What is wrong with the shard's contents, one message each; `full` adds the file's digest."""
        found = []
        for block in range(self.header.n_blocks):
            rows = self._block_rows(block)
            blocks, _, raw, unchecked = self._blocks_of(rows.start, rows.stop, True)
            try:
                self._verify_blocks(range(block, block + 1), blocks, raw, unchecked)
            except DatastoreCorruptError as error:
                found.append(str(error))
        try:
            table = self.table()
            table.ids(0, self.header.rows)
            if self.header.quantised:
                self.scales()
        except DatastoreCorruptError as error:
            found.append(str(error))
            return found
        if not found:
            found += self._flag_problems(table) + (self._digest_problems() if full else [])
        return found

    def _flag_problems(self, table: RowTable) -> list[str]:
        step = max(1, _HASH_BYTES // self.header.row_bytes)
        for start in range(0, self.header.rows, step):
            stored = self.stored(start, min(start + step, self.header.rows), ahead=True)
            want = flags_of(stored, self.header.dtype)
            wrong = table.columns.flags[start : start + step] & (FLAG_NONFINITE | FLAG_ZERO) != want
            if wrong.any():
                row = start + int(np.argmax(wrong))
                return [
                    f"{self.file}: row {self.first + row}: expected the flags its numbers have, got "
                    f"{int(table.columns.flags[row]):#x}"
                ]
        return []

    def _digest_problems(self) -> list[str]:
        digest = hashlib.blake2b(digest_size=32)
        end = self.file_bytes - fmt.FOOTER_BYTES
        for at in range(0, end, _HASH_BYTES):
            digest.update(self._bytes.view(at, min(at + _HASH_BYTES, end), ahead=True)[0])
        if digest.digest() == self._footer.digest:
            return []
        return [f"{self.file}: file digest: expected {self._footer.digest.hex()}, got {digest.hexdigest()}"]

    def _checked_section(self, kind: int, what: str) -> memoryview:
        at = self._footer.section(kind)
        raw, _ = self._bytes.view(at.offset, at.stop)
        crc = crc32c(raw)
        if crc != at.crc:
            raise DatastoreCorruptError(
                f"{self.file}: {what} at offset {at.offset}: expected crc32c {at.crc:08x}, got {crc:08x}; "
                "delete the file and resume to collect its rows again"
            )
        return raw

    def _block_rows(self, block: int) -> range:
        size = self.header.block_rows
        return range(block * size, min((block + 1) * size, self.header.rows))

    def _blocks_of(self, start: int, stop: int, ahead: bool) -> tuple[range, int, memoryview, np.ndarray]:
        """The blocks that hold rows ``[start, stop)``: their numbers, first row, bytes, and which are unchecked."""
        at, size = self._footer.section(fmt.SECTION_ROWS), self.header.block_rows
        blocks = range(start // size, -(-stop // size))
        from_byte = min(at.offset + blocks.start * self.header.block_bytes, at.stop)
        to_byte = min(at.offset + blocks.stop * self.header.block_bytes, at.stop)
        raw, serial = self._bytes.view(from_byte, max(from_byte, to_byte), ahead=ahead)
        known, unchecked = self._unchecked
        if known != serial:  # the bytes were fetched anew
            unchecked = np.full(self.header.n_blocks, self._check_blocks)
            self._unchecked = (serial, unchecked)
        return blocks, blocks.start * size, raw, unchecked

    def _verify_blocks(self, some: range, blocks: range, raw: memoryview, unchecked: np.ndarray) -> None:
        """Raises unless `some` of `blocks`, whose bytes are `raw`, have their checksums."""
        size = self.header.block_bytes
        crcs = crc32c_blocks(raw[(some.start - blocks.start) * size : (some.stop - blocks.start) * size], size)
        for block, crc in zip(some, crcs, strict=True):
            if crc != self._crcs[block]:
                start = self._footer.section(fmt.SECTION_ROWS).offset + block * size
                rows = self._block_rows(block)
                raise DatastoreCorruptError(
                    f"{self.file}: block {block} at offset {start} (rows {self.first + rows.start} … "
                    f"{self.first + rows.stop - 1}): expected crc32c {int(self._crcs[block]):08x}, got {crc:08x}; "
                    "delete the file and resume to collect its rows again"
                )
            unchecked[block] = False
