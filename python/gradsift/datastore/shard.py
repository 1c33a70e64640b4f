"""One published shard, mapped read-only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from gradsift.datastore import format as fmt
from gradsift.datastore._checksum import crc32c
from gradsift.datastore._io import Directory, map_file, pread_exactly
from gradsift.datastore.rows import flags_of
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

    def __init__(self, directory: Directory, name: str, *, check_blocks: bool = True) -> None:
        self.name = name
        self.file = directory.file(name)
        claimed = fmt.parse_name(name)
        if claimed is None:
            raise DatastoreCorruptError(
                f"{self.file}: expected a name shard-<15 digits>-<8 digits>-<8 hex digits>.gs, got another; move the "
                "file elsewhere if it is none of the store's"
            )
        with directory.reading(name) as (fd, self.file_bytes):
            smallest = fmt.HEADER_BYTES + fmt.FOOTER_BYTES
            if self.file_bytes < smallest:
                raise DatastoreCorruptError(
                    f"{self.file}: expected at least {smallest} bytes, got {self.file_bytes}; the file was cut"
                )
            head = pread_exactly(fd, fmt.HEADER_BYTES, 0, self.file)
            self.header = fmt.parse_header(head, self.file, self.file_bytes)
            foot = pread_exactly(fd, fmt.FOOTER_BYTES, self.file_bytes - fmt.FOOTER_BYTES, self.file)
            self._footer = fmt.parse_footer(foot, self.header, self.file, self.file_bytes)
            if self.header.file_name != name:
                raise DatastoreCorruptError(
                    f"{self.file}: expected the name its header gives, {self.header.file_name}; the file was renamed"
                )
            self._map = map_file(fd, self.file_bytes, self.file)
        self._bytes = memoryview(self._map)
        self._check_section(fmt.SECTION_HEADER, "header")
        at = self._check_section(fmt.SECTION_CHECKSUMS, "block checksums")
        self._crcs = np.frombuffer(self._map, "<u4", self.header.n_blocks, at.offset)
        self._unchecked = np.full(self.header.n_blocks, check_blocks)
        self._table: RowTable | None = None
        rows_at = self._footer.section(fmt.SECTION_ROWS).offset
        shape = (self.header.rows, self.header.proj_dim)
        stored = np.frombuffer(self._map, fmt.ROW_DTYPES[self.header.dtype][1], shape[0] * shape[1], rows_at)
        self._stored = stored.reshape(shape)

    @property
    def first(self) -> int:
        return self.header.first

    @property
    def stop(self) -> int:
        return self.header.stop

    def table(self) -> RowTable:
        """The row table, its checksum checked once."""
        if self._table is None:
            at = self._check_section(fmt.SECTION_TABLE, "row table")
            self._table = RowTable(self._bytes[at.offset : at.stop], self.header.rows, self.header.id_kind, self.file)
        return self._table

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Rows ``[start, stop)`` of the shard as stored, a read-only view of blocks that passed their checksums."""
        for block in range(start // self.header.block_rows, -(-stop // self.header.block_rows)):
            if self._unchecked[block]:
                self._check_block(block)
        return self._stored[start:stop]

    def damaged_rows(self, start: int, stop: int) -> list[Damage]:
        """What of rows ``[start, stop)`` lies in blocks that fail their checksums."""
        found = []
        size = self.header.block_rows
        for block in range(start // size, -(-stop // size)):
            try:
                if self._unchecked[block]:
                    self._check_block(block)
            except DatastoreCorruptError as error:
                rows = self._block_rows(block)
                lost = range(max(start, rows.start), min(stop, rows.stop))
                found.append(Damage(self.name, self.first + lost.start, self.first + lost.stop, str(error)))
        return found

    def problems(self, *, full: bool) -> list[str]:
        """What is wrong with the shard's contents, one message each; `full` adds the file's digest."""
        found = []
        for block in range(self.header.n_blocks):
            try:
                self._check_block(block)
            except DatastoreCorruptError as error:
                found.append(str(error))
        try:
            table = self.table()
            table.ids(0, self.header.rows)
        except DatastoreCorruptError as error:
            found.append(str(error))
            return found
        if not found:
            found += self._flag_problems(table) + (self._digest_problems() if full else [])
        return found

    def _flag_problems(self, table: RowTable) -> list[str]:
        step = max(1, _HASH_BYTES // self.header.row_bytes)
        for start in range(0, self.header.rows, step):
            want = flags_of(self._stored[start : start + step], self.header.dtype)
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
            digest.update(self._bytes[at : min(at + _HASH_BYTES, end)])
        if digest.digest() == self._footer.digest:
            return []
        return [f"{self.file}: file digest: expected {self._footer.digest.hex()}, got {digest.hexdigest()}"]

    def _check_section(self, kind: int, what: str) -> fmt.Section:
        at = self._footer.section(kind)
        crc = crc32c(self._bytes[at.offset : at.stop])
        if crc != at.crc:
            raise DatastoreCorruptError(
                f"{self.file}: {what} at offset {at.offset}: expected crc32c {at.crc:08x}, got {crc:08x}; "
                "delete the file and resume to collect its rows again"
            )
        return at

    def _block_rows(self, block: int) -> range:
        size = self.header.block_rows
        return range(block * size, min((block + 1) * size, self.header.rows))

    def _check_block(self, block: int) -> None:
        at = self._footer.section(fmt.SECTION_ROWS)
        start = at.offset + block * self.header.block_bytes
        crc = crc32c(self._bytes[start : min(start + self.header.block_bytes, at.stop)])
        if crc != self._crcs[block]:
            rows = self._block_rows(block)
            raise DatastoreCorruptError(
                f"{self.file}: block {block} at offset {start} (rows {self.first + rows.start} … "
                f"{self.first + rows.stop - 1}): expected crc32c {int(self._crcs[block]):08x}, got {crc:08x}; "
                "delete the file and resume to collect its rows again"
            )
        self._unchecked[block] = False
