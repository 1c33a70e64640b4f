"""Reading a gradient datastore."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from gradsift.datastore._place import Place, is_remote, open_place
from gradsift.datastore._ranges import RowRanges
from gradsift.datastore.block import Block
from gradsift.datastore.format import ID_UTF8, VERSION, looks_like_shard, parse_name, rotation_seed
from gradsift.datastore.report import ShardReport, VerifyReport, ranges_text
from gradsift.datastore.rows import StoredRows
from gradsift.datastore.shard import Damage, Shard
from gradsift.datastore.spec_file import FILE_NAME, MAX_BYTES, expected_rows, parse_spec
from gradsift.datastore.table import COLUMNS, FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO, Columns
from gradsift.errors import DatastoreCorruptError, DatastoreError, DatastoreIncompleteError, SpecMismatchError
from gradsift.specs import ProjectionSpec, StoreSpec

if TYPE_CHECKING:
    from gradsift.datastore.writer import DatastoreWriter

VERIFY_MODES = ("block", "none", "full")
_ON_ERROR = ("raise", "skip")
# Windows of rows that are read from the disk while one is worked on.
_WINDOWS_AHEAD = 2


class Datastore:
    """A directory of sketches, opened for reading: a snapshot of the shards that were there.

    Made by `Datastore.open`; `Datastore.create` makes a writer. Rows are numbered through the store; where rows are
    missing, numbers jump, and `positions`, `ids` and `metadata` hold the rows that are there, in that order.
    `id` is the digest of the spec, which every shard carries. A file that is cut while it is open cannot be guarded
    against (the process gets SIGBUS); nothing of ours does that.
    """

    def __init__(self, directory: Place, verify: str, on_error: str) -> None:
        self.path = directory.path
        self._readers = directory.readers
        raw = directory.read(FILE_NAME, limit_bytes=MAX_BYTES)
        self.spec, self.dtype = parse_spec(raw, directory.file(FILE_NAME))
        self.id = self.spec.digest  # computed once: it takes the whole spec, and every shard is compared with it
        self._expected_rows = expected_rows(self.spec)
        self.damaged: list[Damage] = []
        self._shards: list[Shard] = []
        self._open_shards(directory, verify, on_error)
        self._present = RowRanges()
        for shard in self._shards:
            self._present.add(shard.first, shard.stop)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        spec: StoreSpec | ProjectionSpec,
        dtype: str = "bfloat16",
        resume: bool = False,
        shard_rows: int = 4096,
        storage_options: Mapping[str, Any] | None = None,
    ) -> DatastoreWriter:
        """A writer for a new store at `path`, or with ``resume=True`` for the one that is there.

        Parameters
        ----------
        path : path or URL
            The directory to make; its parent must exist. An empty directory is accepted. A URL (``s3://bucket/store``)
            names a place on any file system of fsspec that publishes objects whole and under a condition; each shard
            is held in memory while it is uploaded.
        spec : StoreSpec or ProjectionSpec
            What the rows mean. ``spec.data["rows"]``, where given, is the number of rows of the finished store.
        dtype : {"bfloat16", "float16", "float32", "int8", "int4", "int1"}
            How rows are stored. The last three take 8, 4 and 1 bit a number, after a rotation that readers undo.
        resume : bool
            Continue a store of the same `spec` and `dtype`; one that is not there yet is made.
        shard_rows : int
            Rows in a shard, the unit of publication and of resume.
        storage_options : mapping, optional
            Options of the URL's file system, as fsspec takes them.

        Raises
        ------
        DatastoreExistsError
            `path` holds a store (without `resume`) or other files.
        SpecMismatchError
            The store there is of another spec or dtype; the message lists the fields.
        """
        from gradsift.datastore.writer import create

        return create(
            path, spec=spec, dtype=dtype, resume=resume, shard_rows=shard_rows, storage_options=storage_options
        )

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: str = "block",
        on_error: str = "raise",
        storage_options: Mapping[str, Any] | None = None,
    ) -> Datastore:
        """The store at `path`.

        Parameters
        ----------
        path : path or URL
            ``s3://bucket/store`` and other URLs are read through fsspec, in ranges of whole blocks.
        verify : {"block", "none", "full"}
            ``"block"``: each block of rows is checked when it is first read. ``"none"``: rows are not checked.
            ``"full"``: every byte is checked now. Headers, footers and row tables are always checked.
        on_error : {"raise", "skip"}
            ``"skip"`` opens a damaged store: shards that cannot be used are left out and listed in `damaged`.
        storage_options : mapping, optional
            Options of the URL's file system, as fsspec takes them.

        Raises
        ------
        DatastoreError
            No store there. DatastoreCorruptError, DatastoreVersionError, SpecMismatchError: what is wrong with it.
        """
        _check_choice("verify", verify, VERIFY_MODES)
        _check_choice("on_error", on_error, _ON_ERROR)
        directory = open_place(path, storage_options)
        try:
            return cls(directory, verify, on_error)
        finally:
            directory.close()

    def __len__(self) -> int:
        """Rows that are there."""
        return sum(shard.header.rows for shard in self._shards)

    def __enter__(self) -> Datastore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the shards; arrays that were handed out stay valid."""
        self._shards = []
        self._present = RowRanges()

    def __repr__(self) -> str:
        return f"Datastore({self.path!r}, rows={len(self)}, proj_dim={self.proj_dim}, dtype={self.dtype!r})"

    @property
    def proj_dim(self) -> int:
        return self.spec.projection.proj_dim

    @property
    def mapped(self) -> bool:
        """Whether rows are read where a file of this machine is mapped; else they are fetched each time."""
        return not is_remote(self.path)

    @property
    def complete(self) -> bool:
        """Whether no row is missing. Without ``spec.data["rows"]`` rows missing at the end cannot be known."""
        return not self.gaps()

    def gaps(self) -> list[range]:
        """Ranges of row numbers that are missing."""
        stop = self._present.stop if self._expected_rows is None else self._expected_rows
        return self._present.missing(0, stop)

    def positions(self) -> np.ndarray:
        """(N,) int64: row numbers of the rows that are there; ``arange(N)`` in a complete store."""
        return np.concatenate([np.empty(0, np.int64), *(np.arange(s.first, s.stop) for s in self._shards)])

    def ids(self) -> list[str] | list[int]:
        """Ids of the rows that are there, in order. Raises DatastoreCorruptError if one stands there twice."""
        ids: list[Any] = [i for shard in self._shards for i in shard.table().ids(0, shard.header.rows)]
        problem = _id_problem(ids, self.positions())
        if problem:
            raise DatastoreCorruptError(f"{self.path!r}: {problem}")
        return ids

    def metadata(self) -> dict[str, np.ndarray]:
        """``grad_norm``, ``gamma_norm``, ``tokens``, ``loss``, ``flags``: (N,) arrays of the rows that are there."""
        columns = Columns.concatenate([shard.table().columns for shard in self._shards])
        return {name: getattr(columns, name) for name, _ in COLUMNS}

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows ``[start, stop)`` by row number, (stop − start, P) float32, in new memory.

        Raises IndexError outside the store and DatastoreIncompleteError where rows are missing.
        """
        stop = self._present.stop if stop is None else stop
        if not 0 <= start <= stop <= self._present.stop:
            raise IndexError(f"rows: expected 0 <= start <= stop <= {self._present.stop}, got {start} … {stop}")
        missing = self._present.missing(start, stop)
        if missing:
            raise DatastoreIncompleteError(
                f"{self.path!r}: expected rows {start} … {stop - 1}, got none of {ranges_text(missing)}; resume the "
                "run that writes them"
            )
        out = np.empty((stop - start, self.proj_dim), np.float32)
        for shard in self._shards:
            lo, hi = max(start, shard.first), min(stop, shard.stop)
            if lo < hi:
                out[lo - start : hi - start] = shard.decoded(shard.stored(lo - shard.first, hi - shard.first))
        return out

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Rows at `positions` (n,) int64, in that order, (n, P) float32, in new memory.

        Raises IndexError for a row number that is not there. Reads and checks the blocks that hold them.
        """
        positions = np.asarray(positions, np.int64)
        out = np.empty((len(positions), self.proj_dim), np.float32)
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        found = 0
        for shard in self._shards:
            lo, hi = np.searchsorted(ascending, [shard.first, shard.stop])
            found += int(hi - lo)
            if lo == hi:
                continue
            local = ascending[lo:hi] - shard.first
            starts = np.flatnonzero(np.diff(local, prepend=-2) != 1)  # of runs of consecutive rows
            runs = [
                shard.stored(int(local[a]), int(local[b - 1]) + 1)
                for a, b in zip(starts, [*starts[1:], len(local)], strict=True)
            ]
            out[order[lo:hi]] = shard.decoded(StoredRows.concatenate(runs))
        if found < len(positions):
            absent = [p for p in positions.tolist() if not self._present.count(p, p + 1)]
            raise IndexError(f"take: expected rows that are there, got {absent[:5]}")
        return out

    def blocks(self, rows: int = 4096, *, on_error: str = "raise") -> Iterator[Block]:
        """All rows that are there, in order, in blocks of at most `rows`, none of which crosses a shard.

        With ``on_error="skip"`` rows in damaged blocks are left out and listed in `damaged`.
        """
        if isinstance(rows, bool) or not isinstance(rows, int):
            raise TypeError(f"rows: expected an int, got {type(rows).__name__}")
        if rows < 1:
            raise ValueError(f"rows: expected at least 1, got {rows}")
        _check_choice("on_error", on_error, _ON_ERROR)
        return self._blocks(rows, on_error == "skip")

    def info(self) -> dict[str, Any]:
        """What the store is, as plain values."""
        flags = self.metadata()["flags"]
        kinds = {shard.header.id_kind for shard in self._shards}
        return {
            "path": self.path,
            "id": self.id,
            "format_version": VERSION,
            "dtype": self.dtype,
            "proj_dim": self.proj_dim,
            "rows": len(self),
            "expected_rows": self._expected_rows,
            "complete": self.complete,
            "gaps": [[gap.start, gap.stop] for gap in self.gaps()],
            "shards": len(self._shards),
            "bytes": sum(shard.file_bytes for shard in self._shards),
            "id_kind": next(("str" if k == ID_UTF8 else "int" for k in kinds), None),
            "no_labels": int(np.count_nonzero(flags & FLAG_NO_LABELS)),
            "nonfinite": int(np.count_nonzero(flags & FLAG_NONFINITE)),
            "zero": int(np.count_nonzero(flags & FLAG_ZERO)),
            "damaged": [[d.shard, d.first, d.stop, d.reason] for d in self.damaged],
            "spec": self.spec.to_dict(),
        }

    def verify(self, *, full: bool = True) -> VerifyReport:
        """Reads every row and reports what is wrong, shard by shard; raises nothing for damage.

        Open with ``on_error="skip"`` to get a report on a store that does not open. Checks the checksum of every
        byte, the ids and the flags; ``full=True`` also each file's digest, which finds what a 32-bit checksum misses
        by a chance of 2⁻³² and takes several times as long. Shards are shared among the cores this process may use.
        """
        reports = [ShardReport(d.shard, d.first, len(d), (d.reason,)) for d in self.damaged]
        problems: list[str] = []
        ids: list[Any] = []
        positions: list[int] = []
        with ThreadPoolExecutor(self._readers) as threads:
            findings = list(threads.map(lambda shard: shard.problems(full=full), self._shards))
        for shard, found in zip(self._shards, findings, strict=True):
            reports.append(ShardReport(shard.name, shard.first, shard.header.rows, tuple(found)))
            if not found:
                ids += shard.table().ids(0, shard.header.rows)
                positions += range(shard.first, shard.stop)
        duplicate = _id_problem(ids, positions)
        if duplicate:
            problems.append(duplicate)
        reports.sort(key=lambda report: report.shard)
        return VerifyReport(self.path, full, tuple(reports), tuple(problems), tuple(self.gaps()))

    def _open_shards(self, directory: Place, verify: str, on_error: str) -> None:
        names = [name for name in directory.names() if looks_like_shard(name)]
        directory.expect(names)
        for name in sorted(names, key=lambda name: (parse_name(name) or (-1,), name)):
            try:
                shard = Shard(directory, name, check_blocks=verify != "none")
                self._check_fits(shard, directory.file(FILE_NAME))
                if verify == "full":
                    found = shard.problems(full=True)
                    if found:
                        raise DatastoreCorruptError(found[0])
            except DatastoreError as error:
                if on_error == "raise":
                    raise
                first, rows, _ = parse_name(name) or (0, 0, "")
                self.damaged.append(Damage(name, first, first + rows, str(error)))
            else:
                self._shards.append(shard)

    def _check_fits(self, shard: Shard, spec_file: str) -> None:
        header = shard.header
        for what, want, got in (
            ("spec digest", self.id, header.spec_digest),
            ("row dtype", self.dtype, header.dtype),
            ("proj_dim", self.proj_dim, header.proj_dim),
            ("rotation seed", rotation_seed(self.spec, self.dtype), header.rotation_seed),
        ):
            if want != got:
                raise SpecMismatchError(f"{shard.file}: {what}: expected {want} as in {spec_file}, got {got}")
        if self._expected_rows is not None and header.stop > self._expected_rows:
            raise SpecMismatchError(
                f"{shard.file}: expected rows below {self._expected_rows} (spec.data.rows), got rows up to "
                f"{header.stop - 1}"
            )
        if not self._shards:
            return
        before = self._shards[-1]
        if before.stop > shard.first:
            raise DatastoreCorruptError(
                f"{shard.file}: expected rows from {before.stop} on, got rows {shard.first} … {shard.stop - 1}, which "
                f"overlap those of {before.name} ({before.first} … {before.stop - 1}); delete one of the two"
            )
        if before.header.id_kind != header.id_kind:
            raise DatastoreCorruptError(
                f"{shard.file}: expected ids of the same kind in all shards, got integers and strings ({before.name})"
            )

    def _blocks(self, rows: int, skip: bool) -> Iterator[Block]:
        windows = [
            (shard, start, min(start + rows, shard.header.rows))
            for shard in self._shards
            for start in range(0, shard.header.rows, rows)
        ]
        failed: Shard | None = None
        for at, (shard, start, stop) in enumerate(windows):
            if shard is failed:
                continue
            for window in windows[at : at + 1 + _WINDOWS_AHEAD]:
                window[0].ask(*window[1:])
            try:
                table = shard.table()
                lost = shard.damaged_rows(start, stop) if skip else []
                self.damaged += [damage for damage in lost if damage not in self.damaged]
                for part in _without(start, stop, [(d.first - shard.first, d.stop - shard.first) for d in lost]):
                    yield self._block(shard, table.ids(part.start, part.stop), table.columns, part)
            except DatastoreCorruptError as error:
                if not skip:
                    raise
                failed = shard
                self.damaged.append(Damage(shard.name, shard.first, shard.stop, str(error)))

    def _block(self, shard: Shard, ids: list[str] | list[int], columns: Columns, part: range) -> Block:
        known = columns[part.start : part.stop]
        return Block(
            shard.first + part.start,
            ids,
            shard.stored(part.start, part.stop, ahead=True),
            shard.header,
            *(getattr(known, name) for name, _ in COLUMNS),
        )


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {choices}, got {value!r}")


def _without(start: int, stop: int, lost: list[tuple[int, int]]) -> list[range]:
    ranges = RowRanges()
    for a, b in lost:
        ranges.add(a, b)
    return ranges.missing(start, stop)


def _id_problem(ids: list[Any], positions: Any) -> str | None:
    """The first id that stands there twice, with both rows."""
    if len(set(ids)) == len(ids):
        return None
    seen: dict[Any, int] = {}
    for row, name in zip(positions, ids, strict=True):
        if name in seen:
            return f"expected ids that are unique in the store, got {name!r} in rows {seen[name]} and {row}"
        seen[name] = int(row)
    raise AssertionError("a set is shorter than its list only if an element repeats")
