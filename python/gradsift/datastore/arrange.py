"""Stores made of stores: shards placed together, rows added, rows chosen; and what dead writers left, removed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gradsift.datastore import format as fmt
from gradsift.datastore._io import Directory
from gradsift.datastore._place import is_remote
from gradsift.datastore._remote import shown_url
from gradsift.datastore.compare import listed, spec_differences
from gradsift.datastore.reader import Datastore
from gradsift.datastore.report import ranges_text
from gradsift.datastore.shard import Shard
from gradsift.datastore.spec_file import FILE_NAME
from gradsift.datastore.writer import DatastoreWriter
from gradsift.errors import DatastoreCorruptError, DatastoreExistsError, DatastoreIncompleteError, SpecMismatchError
from gradsift.specs import StoreSpec, digest_of

Path = str | os.PathLike[str]
# What of `spec.data` says which samples there are, and not how they were made.
_WHICH = ("rows", "digest", "parts", "subset_of", "subset_digest")


@dataclass(frozen=True)
class MergeReport:
    """What `merge_stores` did: shards that it placed, and ones that were there before or twice, byte for byte."""

    path: str
    placed: tuple[str, ...]
    duplicates: tuple[str, ...]
    gaps: tuple[range, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.placed)} shards placed"]
        lines += [f"  there already, with the same bytes: {name}" for name in self.duplicates]
        if self.gaps:
            lines.append(f"  missing: rows {ranges_text(list(self.gaps))}")
        return "\n".join(lines)


def merge_stores(path: Path, sources: Sequence[Path], *, link: bool = True, full: bool = False) -> MergeReport:
    """Places the shards of `sources`, stores of one spec that hold different rows of it, together in `path`.

    Shards are verified (as by ``verify(full=full)``), and then linked, or copied with ``link=False`` or to another
    file system; no row is written anew. `path` may be a store of the same spec; else it is made. Nothing is placed
    unless everything fits; placing it again does nothing.

    Raises
    ------
    SpecMismatchError
        The stores are of different specs or dtypes.
    DatastoreCorruptError
        A shard is damaged.
    DatastoreExistsError
        Two shards hold the same rows and are not the same shard, or an id stands in two rows; the message names them,
        and says of rows whether they agree.
    """
    if not sources:
        raise ValueError("sources: expected at least one store, got none")
    for name, where in (("path", path), *(("sources", source) for source in sources)):
        if is_remote(where):
            raise ValueError(
                f"{name}: expected a local directory, whose files can be linked, got {shown_url(os.fspath(where))!r}"
            )
    with ExitStack() as stack:
        there = [path] if os.path.isdir(path) and FILE_NAME in os.listdir(path) else []
        directories = [stack.enter_context(Directory(where)) for where in (*there, *sources)]
        stores = [Datastore(directory, "block", "raise") for directory in directories]
        for store in stores[1:]:
            _check_same_spec(stores[0], store)
        if not there:
            Datastore.create(path, spec=stores[0].spec, dtype=stores[0].dtype, resume=True).close()
        target = stack.enter_context(Directory(path))
        held = set(target.names())
        chosen: dict[str, tuple[Directory, Shard]] = {}
        duplicates: list[str] = []
        problems: list[str] = []
        for directory, store in zip(directories, stores, strict=True):
            for shard in store._shards:
                if shard.name not in chosen:
                    chosen[shard.name] = directory, shard
                else:
                    duplicates.append(shard.name)
                    problems += _disagreement(chosen[shard.name][1], shard)
        by_row = sorted((shard for _, shard in chosen.values()), key=lambda shard: shard.first)
        problems += _overlaps(by_row)
        if problems:
            raise DatastoreExistsError(
                f"{target.path!r}: expected stores that hold different rows, got\n{listed(problems)}\n"
                "leave out, or delete, one of the two shards each time; nothing was placed"
            )
        _check_ids(by_row, target.path)
        placed = sorted(set(chosen) - held)
        _check_sound([chosen[name][1] for name in placed], full)
        for name in placed:
            directory, shard = chosen[name]
            target.adopt(directory, name, link=link, check=partial(_check_free, target, shard))
        target.sync()  # names, too, that a call which was killed had placed before
        return MergeReport(target.path, tuple(placed), tuple(duplicates), tuple(Datastore.open(path).gaps()))


def append_stores(path: Path, sources: Sequence[Path], *, out: Path | None = None) -> int:
    """Adds the rows of `sources`, new samples, after the last row of the store at `path`; how many were added.

    A spec never changes, and one that counts its rows (``spec.data["rows"]``) or has their digest would be wrong with
    more of them. So rows are added in place to stores whose spec says neither; for others, name `out`, a new store with
    all the rows, whose ``spec.data["parts"]`` lists what it is made of. Everything else in the specs, and the dtypes,
    must agree; bits are kept. Rows that are there with the same id and bits are passed over, so that an interrupted
    call can be repeated.

    Raises
    ------
    SpecMismatchError
        The stores do not belong together, or `path` is closed and `out` is not given.
    DatastoreIncompleteError
        A store lacks rows.
    DatastoreExistsError
        An id is there already with another row, or ids are of another kind; nothing was added.
    """
    if not sources:
        raise ValueError("sources: expected at least one store, got none")
    base = Datastore.open(path)
    stores = [Datastore.open(source) for source in sources]
    for store in (base, *stores):
        if not store.complete:
            raise DatastoreIncompleteError(
                f"{store.path!r}: expected a complete store, got none of rows {ranges_text(store.gaps())}; finish it "
                "first"
            )
    for store in stores:
        _check_same_spec(base, store, but=_WHICH)
    closed = [key for key in _WHICH if base.spec.data.get(key) is not None]
    if out is None:
        if closed:
            raise SpecMismatchError(
                f"{base.path!r}: expected a store whose spec.data leaves the number of rows open, got {closed}; name a "
                "new store for the rows of all (out)"
            )
        with Datastore.create(path, spec=base.spec, dtype=base.dtype, resume=True) as writer:
            return _add_new(writer, base, stores)
    parts = [{"id": store.id, "rows": len(store)} for store in (base, *stores)]
    rows = sum(len(store) for store in (base, *stores))
    data = {**_how(base.spec), "rows": rows, "parts": parts}
    _check_ids([shard for store in (base, *stores) for shard in store._shards], os.fspath(out))
    with Datastore.create(out, spec=replace(base.spec, data=data), dtype=base.dtype, resume=True) as writer:
        _copy(writer, (base, *stores), np.concatenate([store.positions() for store in (base, *stores)]))
    return rows - len(base)


def subset_store(
    path: Path,
    out: Path,
    *,
    ids: Sequence[str] | Sequence[int] | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    shard_rows: int = 4096,
) -> int:
    """Makes the store `out` of some rows of the store at `path`, named by their `ids` or row numbers; how many.

    Rows keep their order in the store, their bits and all that is known of them; one that is named twice is taken once.
    The spec is the same but for ``spec.data``, which says ``subset_of`` (the store's id) and ``subset_digest`` (of the
    row numbers). Streams; the same call again goes on where it stopped.

    Raises
    ------
    ValueError
        Ids or rows that the store does not hold, or both or neither of `ids` and `rows`.
    TypeError
        `rows` that are no integers, such as a mask.
    """
    if (ids is None) == (rows is None):
        raise ValueError("ids, rows: expected one of the two")
    store = Datastore.open(path)
    if ids is not None:
        place = dict(zip(store.ids(), store.positions().tolist(), strict=True))
        absent = [name for name in ids if name not in place]
        if absent:
            raise ValueError(f"ids: expected ids of {store.path!r}, got {absent[0]!r} ({len(absent)} are not there)")
        rows = [place[name] for name in ids]
    chosen = np.unique(_row_numbers(rows))
    absent_rows = np.setdiff1d(chosen, store.positions())
    if len(absent_rows):
        raise ValueError(
            f"rows: expected rows of {store.path!r}, got {absent_rows[0]} ({len(absent_rows)} are not there)"
        )
    data = {
        **_how(store.spec),
        "rows": len(chosen),
        "subset_of": store.id,
        "subset_digest": digest_of(chosen.tolist()),
    }
    spec = replace(store.spec, data=data)
    with Datastore.create(out, spec=spec, dtype=store.dtype, resume=True, shard_rows=shard_rows) as writer:
        _copy(writer, (store,), chosen)
    return len(chosen)


def remove_leftovers(path: Path, *, dry_run: bool = False) -> list[str]:
    """Names of the temporaries and claims in the store at `path` that dead writers left; removed unless `dry_run`."""
    with Directory(path) as directory:
        Datastore(directory, "none", "skip")  # raises where there is no store
        return directory.remove_stale(dry_run=dry_run)


def _how(spec: StoreSpec) -> dict[str, Any]:
    return {key: value for key, value in spec.data.items() if key not in _WHICH}


def _check_same_spec(a: Datastore, b: Datastore, but: Sequence[str] = ()) -> None:
    left, right = a.spec, b.spec
    if but:
        left, right = (replace(spec, data=_how(spec)) for spec in (left, right))
    found = spec_differences(left, right)
    if a.dtype != b.dtype:
        found.append(f"dtype: {a.dtype!r} against {b.dtype!r}")
    if found:
        raise SpecMismatchError(
            f"stores: expected one spec, got ({a.path!r} against {b.path!r})\n{listed(found)}\n"
            "only rows that were made alike can lie in one store"
        )


def _disagreement(a: Shard, b: Shard) -> list[str]:
    """How two shards of the same name differ; nothing if they are the same."""
    difference = a.difference(range(b.first, b.stop), b.table().ids(0, b.header.rows), b.stored(0, b.header.rows))
    if difference:
        return [f"{a.file} and {b.file}: they differ in {difference}"]
    if a.digest != b.digest:
        return [f"{a.file} and {b.file}: they differ in what is known of their rows"]
    return []


def _overlaps(by_row: list[Shard]) -> list[str]:
    found = []
    widest: Shard | None = None
    for shard in by_row:
        if widest is not None and shard.first < widest.stop:
            both = range(shard.first, min(shard.stop, widest.stop))
            part = slice(both.start - shard.first, both.stop - shard.first)
            ids, stored = shard.table().ids(part.start, part.stop), shard.stored(part.start, part.stop)
            difference = widest.difference(both, ids, stored)
            found.append(
                f"{widest.file} and {shard.file}: both hold rows {both.start} … {both.stop - 1}, "
                + (f"and differ in {difference}" if difference else "which are equal")
            )
        if widest is None or shard.stop > widest.stop:
            widest = shard
    return found


def _check_kinds(shards: list[Shard], path: str) -> None:
    if len({shard.header.id_kind for shard in shards}) > 1:
        raise DatastoreExistsError(f"{path!r}: expected ids of one kind, got integers and strings")


def _check_ids(shards: list[Shard], path: str) -> None:
    _check_kinds(shards, path)
    seen: dict[str | int, str] = {}
    for shard in shards:
        ids: Sequence[str | int] = shard.table().ids(0, shard.header.rows)
        for row, name in enumerate(ids, shard.first):
            if name in seen:
                raise DatastoreExistsError(
                    f"{path!r}: expected ids that are unique in the store, got {name!r} in {seen[name]} and in row "
                    f"{row} of {shard.file}"
                )
            seen[name] = f"row {row} of {shard.file}"


def _check_sound(shards: list[Shard], full: bool) -> None:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        found = [problem for part in threads.map(lambda shard: shard.problems(full=full), shards) for problem in part]
    if found:
        raise DatastoreCorruptError(f"{found[0]} ({len(found)} problems in all; nothing was placed)")


def _check_free(target: Directory, shard: Shard) -> None:
    """Other writers may have published since."""
    for name, both in fmt.overlapping(target.names(), shard.first, shard.stop):
        if name != shard.name:
            raise DatastoreExistsError(
                f"{target.file(shard.name)}: expected rows {both.start} … {both.stop - 1} not to be there, got {name}, "
                "which another process placed meanwhile"
            )


def _add_new(writer: DatastoreWriter, base: Datastore, stores: list[Datastore]) -> int:
    """Appends rows whose ids are not there; those that are must be the same. How many are new."""
    _check_kinds([shard for store in (base, *stores) for shard in store._shards], base.path)
    place = {
        name: (shard, row)
        for shard in base._shards
        for row, name in enumerate(shard.table().ids(0, shard.header.rows), shard.first)
    }
    new = [_new_rows(place, store, base.path) for store in stores]
    at = base._present.stop
    for store, positions in zip(stores, new, strict=True):
        for shard, first, stop, to in _runs(store, positions, at):
            _take(writer, shard, first, stop, to)
        at += len(positions)
    return at - base._present.stop


def _new_rows(place: dict[Any, tuple[Shard, int]], store: Datastore, path: str) -> np.ndarray:
    """Numbers of the rows of `store` whose ids `place` lacks, which is where rows lie; it knows them from then on."""
    found = []
    for shard in store._shards:
        ids: Sequence[str | int] = shard.table().ids(0, shard.header.rows)
        for row, name in enumerate(ids, shard.first):
            old, at = place.setdefault(name, (shard, row))
            if old is shard and at == row:
                found.append(row)
            elif old.difference(range(at, at + 1), [name], shard.stored(row - shard.first, row - shard.first + 1)):
                raise DatastoreExistsError(
                    f"{path!r}: expected new ids or the rows that are there, got {name!r} of {shard.file} with other "
                    f"numbers than in row {at} of {old.file}; nothing was added"
                )
    return np.array(found, np.int64)


def _row_numbers(rows: Sequence[int] | np.ndarray | None) -> np.ndarray:
    numbers = np.asarray(rows)
    if numbers.size and numbers.dtype.kind not in "iu":  # a mask would pass for rows 0 and 1
        raise TypeError(f"rows: expected row numbers, got an array of {numbers.dtype}")
    return numbers.astype(np.int64)


def _copy(writer: DatastoreWriter, stores: Sequence[Datastore], positions: np.ndarray) -> None:
    """Copies what is missing of the rows at `positions`, those of each store in turn and rising, to rows 0, 1, …"""
    start = 0
    for store in stores:
        part = positions[start:] if store is stores[-1] else positions[start : start + len(store)]
        for gap in writer.missing():
            lo, hi = max(gap.start, start), min(gap.stop, start + len(part))
            if lo < hi:
                for shard, first, stop, at in _runs(store, part[lo - start : hi - start], lo):
                    _take(writer, shard, first, stop, at)
        start += len(part)


def _runs(store: Datastore, positions: np.ndarray, at: int) -> Iterator[tuple[Shard, int, int, int]]:
    """Consecutive rows among `positions`: their shard, from and to which of its rows, and where they go (from `at`)."""
    for shard in store._shards:
        inside = positions[np.searchsorted(positions, shard.first) : np.searchsorted(positions, shard.stop)]
        for run in np.split(inside, np.flatnonzero(np.diff(inside) != 1) + 1):
            if len(run):
                for first in range(int(run[0]), int(run[-1]) + 1, shard.header.block_rows):
                    stop = min(first + shard.header.block_rows, int(run[-1]) + 1)
                    yield shard, first - shard.first, stop - shard.first, at
                    at += stop - first


def _take(writer: DatastoreWriter, shard: Shard, start: int, stop: int, at: int) -> None:
    table = shard.table()
    writer.append_stored(table.ids(start, stop), shard.stored(start, stop), table.columns[start:stop], at)
