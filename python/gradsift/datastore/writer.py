"""Writing a gradient datastore."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from gradsift.datastore import format as fmt
from gradsift.datastore._place import Place, open_place
from gradsift.datastore._ranges import RowRanges
from gradsift.datastore.claims import Claim
from gradsift.datastore.compare import listed, spec_differences
from gradsift.datastore.reader import Datastore
from gradsift.datastore.rows import JoinedRows, StoredRows, encode_rows
from gradsift.datastore.shard import Shard
from gradsift.datastore.spec_file import FILE_NAME, MAX_BYTES, expected_rows, pack_spec, parse_spec
from gradsift.datastore.table import COLUMNS, FLAG_NO_LABELS, UNKNOWN_TOKENS, Columns, pack_table
from gradsift.errors import DatastoreExistsError, SpecMismatchError
from gradsift.sketches import Sketches
from gradsift.specs import ProjectionSpec, StoreSpec

_FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass
class _Piece:
    """Consecutive rows that are not published yet."""

    first: int
    ids: list[Any]
    rows: StoredRows
    columns: Columns

    @property
    def stop(self) -> int:
        return self.first + len(self.ids)


class DatastoreWriter:
    """Appends sketches to a store; made by `Datastore.create`, used in a ``with`` statement.

    Rows are published in shards that end at multiples of `shard_rows`, each as soon as its rows are there, whatever
    the sizes of the batches; so the same rows make the same files, byte for byte. Leaving the ``with`` statement
    publishes the rest; leaving it by an exception (Ctrl-C too) drops what was not published yet.
    """

    def __init__(self, directory: Place, store: Datastore, shard_rows: int) -> None:
        self.path = store.path
        self.spec = store.spec
        self.dtype = store.dtype
        self.shard_rows = shard_rows
        self._directory = directory
        self._expected_rows = expected_rows(store.spec)
        self._committed = RowRanges()
        self._taken = RowRanges()  # committed or pending
        self._pending: dict[int, list[_Piece]] = {}  # by number of the shard_rows-long window
        self._row_of_id: dict[str | int, int] = dict(zip(store.ids(), store.positions().tolist(), strict=True))
        for shard in store._shards:
            self._committed.add(shard.first, shard.stop)
            self._taken.add(shard.first, shard.stop)
        self._id_type: type | None = type(next(iter(self._row_of_id))) if self._row_of_id else None
        self._next = next((gap.start for gap in self._taken.missing(0, self._taken.stop)), self._taken.stop)
        self._closed = False

    def append(
        self, ids: Sequence[str] | Sequence[int] | np.ndarray, sketches: Sketches | np.ndarray, first: int | None = None
    ) -> None:
        """Adds B rows; shards that are full are published before this returns.

        Parameters
        ----------
        ids : B strings, or B integers of 64 bits
            Unique in the store; all of one kind.
        sketches : Sketches, or an array (B, P) of floats
            Copied. An array leaves norms, loss and tokens unknown.
        first : int, optional
            Row number of ``ids[0]``; otherwise the rows follow the last ones appended, or in a resumed store start
            at the first row that is missing.

        Raises
        ------
        ValueError
            An id that is there already, rows that are, rows beyond ``spec.data["rows"]``, the wrong shape, or a row
            that the store's dtype cannot hold. The store is as before.
        DatastoreSpaceError, DatastoreExistsError, DatastoreError
            A shard could not be published; its rows are still pending.
        """
        self._check_open()
        names = self._checked_ids(ids)
        values, columns = self._checked_sketches(sketches, len(names))
        first = self._checked_first(first, len(names))
        rows_of = dict(zip(names, range(first, first + len(names)), strict=False))
        self._check_unique(names, rows_of, first)
        if not names:
            return
        stored, flags = encode_rows(values, self.dtype, names, seed=fmt.rotation_seed(self.spec, self.dtype))
        flags |= np.uint32(FLAG_NO_LABELS) * (columns.tokens == 0)
        columns = Columns(columns.grad_norm, columns.gamma_norm, columns.tokens, columns.loss, flags)
        self._take(names, rows_of, stored, columns, first)

    def append_stored(self, ids: list[Any], stored: StoredRows, columns: Columns, first: int) -> None:
        """As `append`, of rows as a store of the same dtype and projection has them: their bits are kept."""
        self._check_open()
        names = self._checked_ids(ids)
        first = self._checked_first(first, len(names))
        rows_of = dict(zip(names, range(first, first + len(names)), strict=False))
        self._check_unique(names, rows_of, first)
        self._take(names, rows_of, stored, columns, first)

    def _take(
        self, names: list[Any], rows_of: dict[Any, int], stored: StoredRows, columns: Columns, first: int
    ) -> None:
        """Keeps rows that passed all checks, and publishes the shards that are full."""
        self._id_type = type(names[0])
        self._row_of_id.update(rows_of)
        self._taken.add(first, first + len(names))
        self._next = first + len(names)
        at = first
        while at < self._next:
            window = at // self.shard_rows
            stop = min(self._next, (window + 1) * self.shard_rows)
            part = slice(at - first, stop - first)
            self._pending.setdefault(window, []).append(_Piece(at, names[part], stored[part], columns[part]))
            at = stop
        for window in range(first // self.shard_rows, (self._next - 1) // self.shard_rows + 1):
            start, stop = self._window(window)
            if self._taken.count(start, stop) == stop - start:
                self._publish(window)

    def commit(self) -> None:
        """Publishes all rows appended so far; when it returns they survive a kill and a power loss."""
        self._check_open()
        for window in sorted(self._pending):
            self._publish(window)

    def missing(self, n_rows: int | None = None) -> list[range]:
        """Ranges of ``[0, n_rows)`` that are not published; `n_rows` is ``spec.data["rows"]`` by default."""
        if n_rows is None:
            n_rows = self._expected_rows
        if n_rows is None:
            raise ValueError('n_rows: expected a count, as spec.data["rows"] gives none, got None')
        return self._committed.missing(0, n_rows)

    def claim(self, rows: range) -> Claim | None:
        """Claims `rows` for this process while it makes them; None if another process has them claimed.

        A claim is a context manager and ends with it, with `release`, or with the process, whichever comes first. It
        spares work and decides nothing: a writer without claims is as safe. Rows that another process published before
        the claim was had are known after `refresh`.
        """
        self._check_open()
        return self._directory.claim(rows.start, rows.stop)

    def refresh(self) -> None:
        """Looks for shards that other processes published since; `missing` and `append` know them from then on."""
        self._check_open()
        for name in self._directory.names():
            place = fmt.parse_name(name)
            if place is None or self._committed.overlap(place[0], place[0] + place[1]) is not None:
                continue
            shard = Shard(self._directory, name)
            taken = self._taken.overlap(shard.first, shard.stop)
            if taken is not None:
                raise DatastoreExistsError(
                    f"{shard.file}: expected rows that this writer does not hold unpublished, got rows {taken.start} … "
                    f"{taken.stop - 1} of another writer; drop them, or let writers claim what they make"
                )
            ids = shard.table().ids(0, shard.header.rows)
            rows_of: dict[str | int, int] = dict(zip(ids, range(shard.first, shard.stop), strict=True))
            self._check_unique(ids, rows_of, shard.first)
            self._row_of_id.update(rows_of)
            self._committed.add(shard.first, shard.stop)
            self._taken.add(shard.first, shard.stop)

    def finish(self) -> None:
        """Commits and closes; appending afterwards raises. The end of a ``with`` statement does the same."""
        try:
            self.commit()
        finally:
            self.close()

    def close(self) -> None:
        """Closes without committing: what is not published is dropped."""
        self._closed = True
        self._pending.clear()
        self._directory.close()

    def __enter__(self) -> DatastoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._closed:
            return
        if kind is None:
            self.finish()
        else:
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.path!r}: expected an open writer, got one that was finished; create it again")

    def _checked_ids(self, ids: Sequence[str] | Sequence[int] | np.ndarray) -> list[Any]:
        if isinstance(ids, (str, bytes)):
            raise TypeError(f"ids: expected a sequence of ids, got one {type(ids).__name__}")
        given = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        names: list[Any] = []
        for name in given:
            if isinstance(name, str):
                names.append(str(name))
            elif isinstance(name, (int, np.integer)) and not isinstance(name, bool):
                names.append(int(name))
            else:
                raise TypeError(f"ids: expected strings or integers, got {name!r} ({type(name).__name__})")
        kinds = {type(name) for name in names} | ({self._id_type} if self._id_type else set())
        if len(kinds) > 1:
            raise TypeError("ids: expected all strings or all integers in a store, got both")
        for name in names:
            if isinstance(name, int):
                if not -(2**63) <= name < 2**63:
                    raise ValueError(f"ids: expected integers of 64 bits, got {name}")
            elif any("\ud800" <= char <= "\udfff" for char in name):
                raise ValueError(f"ids: expected text that UTF-8 can hold, got {name!r}")
        return names

    def _checked_sketches(self, sketches: Sketches | np.ndarray, n: int) -> tuple[np.ndarray, Columns]:
        values = np.asarray(sketches.rows if isinstance(sketches, Sketches) else sketches)
        proj_dim = self.spec.projection.proj_dim
        if values.dtype.name not in _FLOATS:
            raise TypeError(f"sketches: expected an array of floats, got dtype {values.dtype}")
        if values.shape != (n, proj_dim):
            raise ValueError(f"sketches: expected shape ({n}, {proj_dim}) (ids, proj_dim), got {values.shape}")
        no_flags = np.zeros(n, np.uint32)
        if not isinstance(sketches, Sketches):
            unknown = np.full(n, np.nan)
            tokens = np.full(n, UNKNOWN_TOKENS, np.int64)
            return values, Columns(unknown, unknown, tokens, unknown.astype(np.float32), no_flags)
        known = {"flags": no_flags}
        for name, dtype in COLUMNS[:-1]:
            column = np.asarray(getattr(sketches, name))
            if column.shape != (n,):
                raise ValueError(f"sketches.{name}: expected shape ({n},), got {column.shape}")
            known[name] = column.astype(dtype)
        return values, Columns(**known)

    def _checked_first(self, first: int | None, n: int) -> int:
        if first is None:
            first = self._next
        elif isinstance(first, bool) or not isinstance(first, (int, np.integer)):
            raise TypeError(f"first: expected an int, got {type(first).__name__}")
        first = int(first)
        if not 0 <= first <= fmt.MAX_FIRST:
            raise ValueError(f"first: expected 0 … {fmt.MAX_FIRST}, got {first}")
        if self._expected_rows is not None and first + n > self._expected_rows:
            raise ValueError(
                f"first: expected rows below {self._expected_rows} (spec.data.rows), got rows {first} … {first + n - 1}"
            )
        there = self._taken.overlap(first, first + n)
        if there is not None:
            raise ValueError(
                f"first: expected rows that are not written yet, got {first} … {first + n - 1}, of which "
                f"{there.start} … {there.stop - 1} are; writer.missing() lists what is left"
            )
        return first

    def _check_unique(self, names: list[Any], rows_of: dict[Any, int], first: int) -> None:
        for row, name in enumerate(names, first):
            other = self._row_of_id.get(name, rows_of[name])
            if other != row:
                raise ValueError(
                    f"ids: expected ids that are unique in the store, got {name!r} for rows {min(row, other)} and "
                    f"{max(row, other)}"
                )

    def _window(self, window: int) -> tuple[int, int]:
        start, stop = window * self.shard_rows, (window + 1) * self.shard_rows
        return start, stop if self._expected_rows is None else min(stop, self._expected_rows)

    def _publish(self, window: int) -> None:
        """Publishes what is pending of one window, each run of consecutive rows as a shard."""
        pieces = sorted(self._pending[window], key=lambda piece: piece.first)
        while pieces:
            count = 1
            while count < len(pieces) and pieces[count].first == pieces[count - 1].stop:
                count += 1
            self._publish_shard(pieces[:count])
            self._committed.add(pieces[0].first, pieces[count - 1].stop)
            pieces = self._pending[window] = pieces[count:]
        del self._pending[window]

    def _publish_shard(self, pieces: list[_Piece]) -> None:
        rows = JoinedRows([piece.rows for piece in pieces])
        ids = [name for piece in pieces for name in piece.ids]
        id_kind = fmt.ID_INT64 if isinstance(ids[0], int) else fmt.ID_UTF8
        header = fmt.ShardHeader.of(self.spec, self.dtype, first=pieces[0].first, rows=len(ids), id_kind=id_kind)
        table = pack_table(ids, Columns.concatenate([piece.columns for piece in pieces]))
        with closing(fmt.shard_chunks(header, rows, table)) as chunks:
            self._directory.publish(
                header.file_name,
                chunks,
                fmt.shard_bytes(header, len(table)),
                check=lambda: self._check_no_overlap(header, ids, rows),
            )

    def _check_no_overlap(self, header: fmt.ShardHeader, ids: list[Any], rows: JoinedRows) -> None:
        """Other writers may have published since the store was opened."""
        for name, both in fmt.overlapping(self._directory.names(), header.first, header.stop):
            if name == header.file_name:
                continue
            ours = slice(both.start - header.first, both.stop - header.first)
            difference = Shard(self._directory, name).difference(both, ids[ours], rows[ours])
            raise DatastoreExistsError(
                f"{self._directory.file(header.file_name)}: expected rows {header.first} … {header.stop - 1} not "
                f"to be there, got {name}; another writer published them meanwhile. "
                + (
                    f"The two differ in {difference}: find out which is right before going on"
                    if difference
                    else "What both hold is equal: resume to go on with what is missing"
                )
            )


def create(
    path: str | os.PathLike[str],
    *,
    spec: StoreSpec | ProjectionSpec,
    dtype: str,
    resume: bool,
    shard_rows: int,
    storage_options: Mapping[str, Any] | None,
) -> DatastoreWriter:
    """`Datastore.create`."""
    if isinstance(spec, ProjectionSpec):
        spec = StoreSpec(spec)
    if not isinstance(spec, StoreSpec):
        raise TypeError(f"spec: expected a StoreSpec or ProjectionSpec, got {type(spec).__name__}")
    if dtype not in fmt.ROW_DTYPES:
        raise ValueError(f"dtype: expected one of {tuple(fmt.ROW_DTYPES)}, got {dtype!r}")
    if isinstance(shard_rows, bool) or not isinstance(shard_rows, int):
        raise TypeError(f"shard_rows: expected an int, got {type(shard_rows).__name__}")
    if not 1 <= shard_rows <= fmt.MAX_SHARD_ROWS:
        raise ValueError(f"shard_rows: expected 1 … {fmt.MAX_SHARD_ROWS}, got {shard_rows}")
    packed = pack_spec(spec, dtype)
    directory = open_place(path, storage_options, make=True)
    try:
        publish_spec(directory, packed, spec, dtype, resume=resume)
        directory.prove(FILE_NAME)
        return DatastoreWriter(directory, Datastore(directory, "block", "raise"), shard_rows)
    except BaseException:
        directory.close()
        raise


def publish_spec(directory: Place, packed: bytes, spec: StoreSpec, dtype: str, *, resume: bool) -> None:
    """Makes sure that ``spec.json`` is there and says `packed`."""
    names = directory.names()
    if FILE_NAME not in names:
        if names:
            raise DatastoreExistsError(
                f"{directory.path!r}: expected no directory, an empty one or a datastore, got one that holds "
                f"{names[:5]} and no {FILE_NAME}; choose another path"
            )
        directory.remove_stale()
        if directory.publish(FILE_NAME, [packed], len(packed)) or resume:
            return
    if not resume:
        raise DatastoreExistsError(
            f"{directory.path!r}: expected no datastore, got one; pass resume=True to go on with it, or another path"
        )
    found, found_dtype = parse_spec(directory.read(FILE_NAME, limit_bytes=MAX_BYTES), directory.file(FILE_NAME))
    differences = spec_differences(found, spec)
    if found_dtype != dtype:
        differences.append(f"dtype: {found_dtype!r} against {dtype!r}")
    if differences:
        raise SpecMismatchError(
            f"{directory.path!r}: expected the spec of the store there, got another (store against request)\n"
            + listed(differences)
            + "\nresume with the same settings, or choose another path"
        )
    # Names whose writer was killed before it synced them are relied on from here on.
    directory.sync()
    directory.remove_stale()
